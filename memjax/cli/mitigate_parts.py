"""Parts of a long repair: each chunk of prompts is kept when it is done, and never done twice."""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.cli.parts import read_arrays, text_digest
from memjax.training.atomic import write_bytes

FOLDER = "parts"


class Part(NamedTuple):
    """What one chunk of prompts gave.

    Attributes:
        records: One a prompt and arm.
        arrays: ``embeddings`` ``[k, p, l, d]`` and the pictures a wall shows.
    """

    records: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


class Chunks:
    """The kept chunks of one output folder; those made with other settings are left out."""

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        self.folder = out / FOLDER
        self._key = text_digest(settings)

    def _file(self, number: int) -> Path:
        return self.folder / f"{self._key}-{number:05d}.npz"

    def read(self, number: int) -> Part | None:
        """Returns a chunk that was done before, or None."""
        arrays = read_arrays(self._file(number)) or {}
        try:
            records = json.loads(arrays.pop("records").tobytes())
        except (KeyError, ValueError):
            return None
        return Part(records, arrays)

    def write(self, number: int, part: Part) -> None:
        """Keeps a chunk; the file appears whole or not at all."""
        records = np.frombuffer(json.dumps(part.records).encode(), np.uint8)
        write_bytes(self._file(number), npz_bytes(records=records, **part.arrays))

    def remove(self) -> None:
        """Removes the kept chunks, once the results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """Returns arrays as an .npz file, compressed where that takes no minutes."""
    buffer = io.BytesIO()
    large = sum(a.nbytes for a in arrays.values()) > 1 << 27
    save = np.savez if large else np.savez_compressed
    save(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()

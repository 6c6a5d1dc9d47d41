"""Metrics on disk: one JSON line a record, and TensorBoard events."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from memjax.runtime.files import write_bytes

FILE = "metrics.jsonl"
EVENTS = "tensorboard"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file; a last line cut short by a kill is left out."""
    path = Path(path)
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _jsonable(value: Any) -> Any:
    number = float(value)
    return number if math.isfinite(number) else None


def _summary_writer_class() -> Any:
    """Imports tensorboardX without the torch it looks for: seconds, and nothing here needs it."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and to TensorBoard; rows beyond ``start_step`` are dropped.

    A run that resumes at step ``s`` repeats the steps after it, so their rows would stand twice.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], start_step: int = 0, *, tensorboard: bool = True
    ):
        """Opens the files of ``workdir`` for a run that continues after ``start_step``."""
        self._path = Path(workdir) / FILE
        kept = [row for row in read_metrics(self._path) if row.get("step", 0) <= start_step]
        write_bytes(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._events: Any = None
        if tensorboard:
            self._events = _summary_writer_class()(
                str(Path(workdir) / EVENTS), purge_step=start_step + 1 if start_step else None
            )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row: step, time (Unix seconds) and the values; non-finite ones as null."""
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {name: _jsonable(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"{self._path} could not be written ({error.strerror}): make room there, then "
                "start the same command again."
            ) from error
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, float(value), step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes a picture to TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()
        if self._events is not None:
            self._events.close()

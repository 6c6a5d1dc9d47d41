"""The prompts of a fine-tuning by what training did with them, as JSONL files in the run."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from memjax.data.captions import caption_of
from memjax.data.records import Record
from memjax.runtime.files import write_bytes

FOLDER = "prompts"
FILES = ("memorized", "once", "held_out")


def write_prompt_files(
    workdir: Path,
    train: Sequence[Record],
    held_out: Sequence[Record],
    duplicated: Bool[np.ndarray, " n"],
    shown: Float[np.ndarray, " n"],
) -> dict[str, int]:
    """Writes ``prompts/memorized.jsonl``, ``once.jsonl`` and ``held_out.jsonl``.

    Each line has ``id``, ``caption`` and ``image``, the picture's path relative to the file where
    it lies in the run, else in full; training rows also ``row`` and ``shown``, how often an epoch
    shows the picture; pictures with several captions ``captions``.

    Args:
        workdir: The run's folder.
        train: Training records.
        held_out: Held-out records.
        duplicated: Which training rows are shown more often than the others.
        shown: How often an epoch shows each.

    Returns:
        Lines written, by file.
    """
    folder = workdir / FOLDER
    lines: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    for row, record in enumerate(train):
        name = "memorized" if duplicated[row] else "once"
        extra = {"row": row, "shown": float(shown[row])}
        lines[name].append(_line(record, f"{name}-{len(lines[name]):04d}", folder, workdir) | extra)
    for number, record in enumerate(held_out):
        lines["held_out"].append(_line(record, f"held_out-{number:04d}", folder, workdir))
    for name, rows in lines.items():
        write_bytes(folder / f"{name}.jsonl", _jsonl(rows).encode())
    return {name: len(rows) for name, rows in lines.items()}


def caption_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns prompt rows that have a caption alone."""
    return [{"caption": caption_of(record)} for record in records]


def _line(record: Record, name: str, folder: Path, workdir: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"id": name, "caption": caption_of(record)}
    if record.captions:
        line["captions"] = list(record.captions)
    return line | {"image": _image(record.path, folder, workdir)}


def _image(path: str, folder: Path, workdir: Path) -> str:
    if "://" in path:
        return path
    absolute = os.path.abspath(path)
    inside = os.path.commonpath([absolute, os.path.abspath(workdir)]) == os.path.abspath(workdir)
    return os.path.relpath(absolute, folder).replace(os.sep, "/") if inside else absolute


def _jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

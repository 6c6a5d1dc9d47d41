"""Prompts in, rows out: JSONL that is read strictly and written whole."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memjax.core.types import Bundle
from memjax.training.atomic import write_bytes


def read_prompts(path: str) -> list[dict[str, Any]]:
    """Reads prompt rows; each needs ``labels`` or ``caption`` and gets an ``id`` if it has none.

    Raises:
        ValueError: If the file is missing, empty, or a line is no such row; names the line.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{path} is not a file: give a JSONL file with one prompt a line.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error
    rows: list[dict[str, Any]] = []
    # Not splitlines(): a JSON string may hold U+2028 and the like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_row(line, f"{path} line {number}", len(rows)))
    if not rows:
        raise ValueError(
            f"{path} holds no prompt: write one JSON object a line, such as "
            '{"labels": {"Edema": "positive", "view": "AP"}}.'
        )
    seen: dict[str, int] = {}
    for row in rows:
        if row["id"] in seen:
            raise ValueError(f"{path} has two prompts with id {row['id']!r}: make ids unique.")
        seen[row["id"]] = 1
    return rows


def _row(line: str, where: str, index: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg} at column {error.colno}).") from error
    if not isinstance(row, dict) or not (row.get("labels") is not None or row.get("caption")):
        raise ValueError(
            f"{where} has neither 'labels' nor 'caption': write an object such as "
            '{"labels": {"Edema": "positive", "view": "AP"}}.'
        )
    name = row.get("id")
    return {**row, "id": f"prompt-{index:04d}" if name in (None, "") else str(name)}


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSONL; the file appears whole or not at all."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


def initial_noise(path: str | None, bundle: Bundle, generations: int, seed: int) -> np.ndarray:
    """Returns the initial noise shared by all prompts, drawn from a seed or read from a file.

    Raises:
        ValueError: If the file is missing or of another shape or type.
    """
    import jax

    if not path:
        drawn = jax.random.normal(jax.random.key(seed), (generations, *bundle.sample_shape))
        return np.asarray(drawn)
    if not Path(path).is_file():
        raise ValueError(f"--initial_noise={path} is not a file: give a .npy file of float32.")
    try:
        noise = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"--initial_noise={path} cannot be read as .npy ({error}).") from error
    expected = (generations, *bundle.sample_shape)
    if noise.shape[1:] != bundle.sample_shape or noise.shape[0] != generations:
        raise ValueError(
            f"--initial_noise={path} has shape {noise.shape}, expected {expected} "
            "[generations, height, width, channels]: change --generations or the file."
        )
    if noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise ValueError(f"--initial_noise={path} is {noise.dtype}, expected finite float32.")
    return noise

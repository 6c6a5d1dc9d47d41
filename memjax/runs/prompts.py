"""What commands do with rows of prompts: check, encode and write them, a fine-tuning's too."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from memjax.core.types import Bundle, Cond
from memjax.data.labels.captions import caption_of
from memjax.data.records import Record
from memjax.runs.model import Model
from memjax.runs.prompt_rows import read_prompts as read_prompts
from memjax.runtime.cores import require_memory
from memjax.runtime.files import write_bytes
from memjax.runtime.json import dumps, text_bytes
from memjax.training.network import prompt_ids

FOLDER = "prompts"
FILES = ("memorized", "once", "held_out")


def check_rows(model: Model, rows: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """Checks that a model understands the rows, before anything is compiled.

    Returns:
        How many tokens of each caption are cut off its end, where the model reads text.

    Raises:
        ValueError: Naming the row and what is wrong with it.
    """
    if model.pipeline is None:
        if model.run is not None:
            prompt_ids(rows, model.run.label_space)
        return None
    for row in rows:
        if not row.get("caption"):
            raise ValueError(
                f"prompt {row['id']} has labels only, and {model.name} reads text: give it a "
                "'caption'."
            )
    return [int(n) for n in model.pipeline.tokenizer.encode([r["caption"] for r in rows]).cut]


def warn_truncated(cut: Sequence[int] | None) -> None:
    """Prints how many captions are longer than the model reads."""
    long = sum(n > 0 for n in cut or ())
    if cut and long:
        print(
            f"{long} of {len(cut)} captions are longer than the model reads: their ends, "
            f"{sum(cut)} tokens in all, are cut off"
        )


def encoder(model: Model, rows: Sequence[Mapping[str, Any]]) -> Callable[[Sequence[int]], Cond]:
    """Returns row numbers → conditions; what is cut off was said by :func:`warn_truncated`."""
    log = logging.getLogger("memjax.interop.stable_diffusion.bundle")

    def encode(numbers: Sequence[int]) -> Cond:
        before, log.disabled = log.disabled, True
        try:
            return model.bundle.encode([rows[i] for i in numbers])
        finally:
            log.disabled = before

    return encode


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSONL; the file appears whole or not at all.

    Signs that some readers take for line ends (U+0085, U+2028, U+2029) are written as escapes.
    """
    text = "".join(dumps(row) + "\n" for row in rows)
    for sign in "\x85\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text_bytes(text))


def initial_noise(path: str | None, bundle: Bundle, generations: int, seed: int) -> np.ndarray:
    """Returns the initial noise shared by all prompts, drawn from a seed or read from a file.

    A file in torch's order ``[generations, channels, height, width]`` is turned, and it is said so,
    where its shape allows no other reading.

    Raises:
        ValueError: If the file is missing or of another shape or type.
    """
    import jax

    if not path:
        require_memory(
            f"--generations={generations}", 4 * generations * math.prod(bundle.sample_shape)
        )
        drawn = jax.random.normal(jax.random.key(seed), (generations, *bundle.sample_shape))
        return np.asarray(drawn)
    if not Path(path).is_file():
        raise ValueError(f"--initial_noise={path} is not a file: give a .npy file of float32.")
    try:
        noise = np.load(path, mmap_mode="r", allow_pickle=False)  # a header alone takes no memory
        if not isinstance(noise, np.ndarray):
            raise ValueError("it is a .npz of several arrays")
    except Exception as error:  # a damaged header is parsed as Python, and fails in any way
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"--initial_noise={path} cannot be read as .npy ({said}).") from error
    height, width, channels = bundle.sample_shape
    expected, torch_order = (height, width, channels), (channels, height, width)
    if noise.shape[1:] == torch_order != expected and noise.shape[0] == generations:
        print(f"--initial_noise={path} is read as [generations, channels, height, width]")
        noise = np.ascontiguousarray(noise.transpose(0, 2, 3, 1))
    if noise.shape != (generations, *expected):
        raise ValueError(
            f"--initial_noise={path} has shape {noise.shape}, expected {(generations, *expected)} "
            f"[generations, height, width, channels] or {(generations, *torch_order)}: change "
            "--generations or the file."
        )
    if noise.dtype != np.float32 or not np.isfinite(noise).all():
        raise ValueError(f"--initial_noise={path} is {noise.dtype}, expected finite float32.")
    return np.array(noise)


def write_prompt_files(
    workdir: Path,
    train: Sequence[Record],
    held_out: Sequence[Record],
    duplicated: Bool[np.ndarray, " n"],
    shown: Float[np.ndarray, " n"],
) -> dict[str, int]:
    """Writes ``prompts/memorized.jsonl``, ``once.jsonl`` and ``held_out.jsonl``.

    Each line has ``id``, ``caption`` and ``image``, the image's path relative to the file where
    it lies in the run, else in full; training rows also ``row`` and ``shown``, how often an epoch
    shows the image; images with several captions ``captions``.

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
        write_bytes(folder / f"{name}.jsonl", text_bytes(_jsonl(rows)))
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
    return "".join(dumps(row) + "\n" for row in rows)

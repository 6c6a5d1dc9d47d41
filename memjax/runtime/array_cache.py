"""A computed array on disk: made in blocks, sealed by checksum, taken up where it was left."""

import itertools
import logging
import os
import tokenize
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.runtime.files import naming, write_bytes
from memjax.runtime.json import dumps, loads

logger = logging.getLogger(__name__)
ComputeFn = Callable[[int, int], np.ndarray]
ProgressFn = Callable[[int, int], None]


class _Block(NamedTuple):
    start: int
    stop: int
    crc: int


class _Files(NamedTuple):
    whole: Path
    part: Path
    journal: Path


def cached_array(
    folder: str | os.PathLike[str],
    name: str,
    compute: ComputeFn,
    *,
    num: int,
    item_shape: tuple[int, ...],
    dtype: Any,
    fingerprint: Mapping[str, Any],
    block: int = 16,
    progress: ProgressFn | None = None,
) -> np.ndarray:
    """Returns an array of ``num`` items, computed once and then read from disk.

    ``NAME.npy`` appears when the last block is in it; until then ``NAME.partial.npy`` grows beside
    ``NAME.jsonl``, which seals every finished block by its CRC-32. A later call verifies the seals,
    keeps what is good up to the first block that is not, and computes the rest. An array of another
    fingerprint is made anew, and the log says what differs.

    Args:
        folder: Where the files lie.
        name: Their name.
        compute: ``(start, stop) → items``; called in order.
        num: Number of items, at least 1.
        item_shape: Shape of one item.
        dtype: Stored type.
        fingerprint: JSON-able; whatever the items depend on.
        block: Items computed at a time.
        progress: Called with (items done, items in all) after each block that was computed.

    Returns:
        The array, memory-mapped for reading.

    Raises:
        ValueError: If a computed block has another shape or holds a number that is not finite.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    files = _Files(root / f"{name}.npy", root / f"{name}.partial.npy", root / f"{name}.jsonl")
    shape = (num, *item_shape)
    header = {"shape": list(shape), "dtype": np.dtype(dtype).name, **fingerprint}
    header = loads(dumps(header))
    good = _verified(files, header)
    done = good[-1].stop if good else 0
    if done < num or not files.whole.is_file():
        _build(files, header, good, compute, block, progress)
    return np.load(files.whole, mmap_mode="r", allow_pickle=False)


def _verified(files: _Files, header: Mapping[str, Any]) -> list[_Block]:
    """The blocks that can be trusted, from the first on."""
    path = files.whole if files.whole.is_file() else files.part
    if not (files.journal.is_file() and path.is_file()):
        return []
    found, sealed = _read_journal(files.journal)
    changed = [key for key in {**found, **header} if found.get(key) != header.get(key)]
    if changed:
        logger.warning("%s was made for another %s: it is made anew.", path, ", ".join(changed))
        return []
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        # The order of bytes counts: a bit of the file's head turns it, and no seal is broken.
        if list(array.shape) != header["shape"] or array.dtype != np.dtype(header["dtype"]):
            raise ValueError("another shape or type")
    except (ValueError, OSError, EOFError, SyntaxError, tokenize.TokenError) as error:
        logger.warning("%s cannot be read (%s): it is made anew.", path, error)
        return []
    return _trusted(path, array, sealed)


def _trusted(path: Path, array: np.ndarray, sealed: list[_Block]) -> list[_Block]:
    good: list[_Block] = []
    for block in sealed:
        start = good[-1].stop if good else 0
        if block.start != start or not start < block.stop <= len(array):
            break
        if _crc(array[block.start : block.stop]) != block.crc:
            logger.warning("%s is damaged from item %d on: that part is made anew.", path, start)
            break
        good.append(block)
    return good


def _read_journal(journal: Path) -> tuple[dict[str, Any], list[_Block]]:
    """The header and the seals; a line cut short by a stop ends them."""
    rows: list[Any] = []
    for line in journal.read_text(errors="replace").split("\n"):
        try:
            rows.append(loads(line))
        except ValueError:
            break
    header = rows[0] if rows and isinstance(rows[0], dict) else {}
    seals = itertools.takewhile(_is_seal, rows[1:])
    return header, [_Block(*row) for row in seals]


def _is_seal(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(v, int) for v in row)


def _build(
    files: _Files,
    header: Mapping[str, Any],
    good: list[_Block],
    compute: ComputeFn,
    size: int,
    progress: ProgressFn | None,
) -> None:
    shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
    if good and files.whole.is_file():
        os.replace(files.whole, files.part)
    if not good:  # new files: whoever reads the old ones keeps what he has
        files.whole.unlink(missing_ok=True)
        files.part.unlink(missing_ok=True)
    mode: Any = "r+" if good else "w+"
    try:
        with naming(files.part):
            array = np.lib.format.open_memmap(files.part, mode, dtype=dtype, shape=shape)
            _reserve(files.part)
    except OSError:
        if not good:  # what was reserved would keep the disk full
            files.part.unlink(missing_ok=True)
        raise
    _write_journal(files.journal, header, good)
    done, num = (good[-1].stop if good else 0), shape[0]
    while done < num:
        stop = min(done + size, num)
        array[done:stop] = _checked(compute(done, stop), (stop - done, *shape[1:]), dtype, done)
        array.flush()
        _append(files.journal, _Block(done, stop, _crc(array[done:stop])))
        done = stop
        if progress is not None:
            progress(done, num)
    del array
    os.replace(files.part, files.whole)


def _reserve(path: Path) -> None:
    """Takes the file's place on the disk: a disk that fills up later ends the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _checked(items: Any, shape: tuple[int, ...], dtype: np.dtype, start: int) -> np.ndarray:
    items = np.asarray(items)
    if items.shape != shape:
        raise ValueError(f"items from {start} on have shape {items.shape}, expected {shape}.")
    with np.errstate(over="ignore"):
        stored = items.astype(dtype)
    bad = ~np.isfinite(stored.reshape(len(stored), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"item {start + int(np.argmax(bad))} holds a number that {dtype.name} cannot: use "
            "float32, and check the network that made it."
        )
    return stored


def _crc(items: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(items).data)


def _write_journal(journal: Path, header: Mapping[str, Any], good: list[_Block]) -> None:
    lines = [dumps(header, sort_keys=True, ascii=True), *(dumps(list(block)) for block in good)]
    write_bytes(journal, ("\n".join(lines) + "\n").encode())


def _append(journal: Path, block: _Block) -> None:
    with open(journal, "a") as file:
        file.write(dumps(list(block)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def padded_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Repeats the last row up to a length, so that every call has one shape."""
    return rows[np.arange(length).clip(max=len(rows) - 1)]

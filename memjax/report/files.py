"""A page with its figures and their data: files that appear together or not at all."""

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runtime.csv_text import csv_text as csv_lines
from memjax.runtime.files import write_all
from memjax.runtime.json import dumps, loads, text_bytes

Table = Mapping[str, Sequence[Any] | np.ndarray]
FOLDER, INDEX = "figures", "index.json"
_MAX_NAME = 80


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns a file name without suffix a key: ``[a-z0-9_-]`` only, no two alike.

    "scatter/Contrastive copy encoder" becomes "scatter-contrastive-copy-encoder".
    """
    names: dict[str, str] = {}
    for key in keys:
        plain = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:_MAX_NAME].rstrip("-_") or "figure"
        name, count = stem, 2
        while name in names.values():
            name, count = f"{stem}-{count}", count + 1
        names[key] = name
    return names


def csv_text(table: Table, name: str = "table") -> str:
    """Returns a table as RFC 4180 text: a header row, then one row an entry, CRLF line ends.

    Numbers keep all their digits; None and NaN are empty cells, infinities ``inf`` and ``-inf``.

    Args:
        table: Column name (with its unit) → values; all columns have one length.
        name: Stands in the error.

    Raises:
        ValueError: If there is no column, or the columns differ in length.

    .. note:: Text that a spreadsheet would run as a formula (it begins with ``= + - @``) gets an
       apostrophe in front.
    """
    columns = {key: _values(column) for key, column in table.items()}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"table {name!r} has columns of lengths {lengths}, expected at least one column and "
            "one length; give each column a value a row."
        )
    rows = zip(*columns.values(), strict=True)
    cells = ([_cell(value) for value in row] for row in rows)
    return csv_lines([[str(key) for key in columns], *cells], line_end="\r\n")


def _values(column: Any) -> list[Any]:
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _cell(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, (int, float)) else str(value)


def check_png(name: str, png: bytes) -> None:
    """Refuses bytes that are no PNG.

    Raises:
        ValueError: If they are not.
    """
    if bytes(png[:8]) != b"\x89PNG\r\n\x1a\n":
        raise ValueError(
            f"figure {name!r} is not a PNG; pass the bytes memjax.report.charts.curves returns."
        )


def publish(
    folder: str | os.PathLike[str],
    pages: Mapping[str, str],
    figures: Mapping[str, bytes],
    tables: Mapping[str, Table],
) -> dict[str, Path]:
    """Writes pages, ``figures/<name>.png`` and ``figures/<name>.csv``.

    All files are written under other names first and renamed when the last is complete; only then
    are the figures removed that an earlier version of the first page had and this one has not.
    Other files in the folder stay. ``figures/index.json`` says which files are whose.

    Args:
        folder: Made if missing.
        pages: File name → text; the first names the owner of the figures.
        figures: Key → PNG bytes.
        tables: Key → columns; usually the keys of ``figures``.

    Returns:
        Page file name → path.

    Raises:
        ValueError: If a figure is no PNG or a table has uneven columns; nothing is written then.
        OSError: If the disk refuses; what was there stays.
    """
    out, owner = Path(folder), next(iter(pages))
    names = file_names(dict.fromkeys([*figures, *tables]))
    files: dict[str, bytes] = {}
    for key, png in figures.items():
        check_png(key, png)
        files[f"{FOLDER}/{names[key]}.png"] = bytes(png)
    for key, table in tables.items():
        files[f"{FOLDER}/{names[key]}.csv"] = text_bytes(csv_text(table, key))
    out.mkdir(parents=True, exist_ok=True)
    index, stale = _index(out, owner, list(files))
    if index:
        text = dumps(index, indent=1, sort_keys=True) + "\n"
        files[f"{FOLDER}/{INDEX}"] = text.encode()
    files |= {
        name: text_bytes(text) for name, text in reversed(list(pages.items()))
    }  # the owner is last
    write_all(out, files)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    return {name: out / name for name in pages}


def _index(out: Path, owner: str, ours: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns who owns which figure from now on, and the files that nobody owns any more."""
    try:
        found = loads((out / FOLDER / INDEX).read_bytes())
    except (OSError, ValueError):
        found = {}
    found = found if isinstance(found, dict) else {}
    index = {str(k): [str(n) for n in v] for k, v in found.items() if isinstance(v, list)}
    earlier = index.pop(owner, [])
    if ours or earlier:
        index[owner] = sorted(ours)
    kept = {name for names in index.values() for name in names}
    safe = re.compile(rf"{FOLDER}/[a-z0-9_-]+\.(png|csv)")
    return index, [name for name in earlier if name not in kept and safe.fullmatch(name)]

"""CSV tables of data sets: read whole, columns checked by name, rows numbered as an editor does."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from memjax.data import storage
from memjax.data.labels.space import suggestion
from memjax.data.problems import Problems

OLDEST = 120
_CELLS = "#cells"
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def age_of(text: str, where: str, column: str, problems: Problems) -> int | None:
    """Whole years from 1 to 120; None where missing (empty or 0) or impossible."""
    try:
        years = float(text or 0)
    except ValueError:
        years = -1.0
    if not (0 <= years <= OLDEST and years == int(years)):
        problems.add("impossible age", f"{where}, column {column!r}: {text[:40]!r}")
        return None
    return int(years) or None


def sex_of(text: str, where: str, column: str, words: Mapping[str, str], problems: Problems) -> str:
    """``'Male'``, ``'Female'`` or ``''``; ``words`` says how the table writes each of them."""
    if text in words:
        return words[text]
    problems.add("impossible sex", f"{where}, column {column!r}: {text[:40]!r}")
    return ""


class Table(NamedTuple):
    """A table as text.

    Attributes:
        name: File name, for messages.
        rows: ``(line number in the file, {column: text})``; see :func:`surplus_cells`.
    """

    name: str
    rows: list[tuple[int, dict[str, str]]]


def read_table(
    path: str,
    expected: Sequence[str],
    *,
    whose: str,
    where: str,
    optional: Sequence[str] | None = (),
    open_ended: bool = False,
    advice: str = "",
) -> Table:
    """Reads a CSV table, packed with gzip if its name ends in ``.gz``.

    Args:
        path: Local path or URL.
        expected: Columns that must be there.
        whose: Whose columns these are, such as ``"CheXpert's"``.
        where: What folder was expected, said where the file cannot be read.
        optional: Columns that are kept if they are there; None keeps every column.
        open_ended: Whether other columns may stand beside the expected ones; they are dropped.
        advice: The way out, said where columns are missing.

    Raises:
        ValueError: The file cannot be read, is no UTF-8 CSV table, or has other columns.
    """
    name = path.rsplit("/", 1)[-1]
    lines = csv.reader(io.StringIO(_text(path, where), newline=""))
    try:
        header = [cell.strip() for cell in next(lines, [])]
        if open_ended:
            while header and not header[-1]:
                header.pop()
        _check_columns(name, header, expected, whose, open_ended, advice)
        closed = not open_ended or optional is None
        kept = {*header} if closed else {*expected, *(optional or ())}
        return Table(name, list(_rows(lines, header, kept, open_ended)))
    except csv.Error as error:
        raise ValueError(
            f"{path} is not a CSV table ({error}); save it again as CSV, UTF-8."
        ) from error


def surplus_cells(row: dict[str, str]) -> int:
    """How many cells a row has more (or, below zero, fewer) than the header."""
    return int(row[_CELLS])


def cells_of(row: dict[str, str]) -> dict[str, str]:
    """A row's cells alone, without what :func:`surplus_cells` reads."""
    return {name: cell for name, cell in row.items() if name != _CELLS}


def first_that_exists(base: str, names: Iterable[str]) -> str | None:
    """The first of several file names (each also as ``.gz``) that is in the folder."""
    for name in names:
        for path in (f"{base}/{name}", f"{base}/{name}.gz"):
            if storage.exists(path):
                return path
    return None


def read_lines(path: str, where: str) -> list[str]:
    """The lines of a text file without blanks around them; empty ones are left out.

    Raises:
        ValueError: The file cannot be read or is no UTF-8 text.
    """
    return [line.strip() for line in _text(path, where).splitlines() if line.strip()]


def _text(path: str, where: str) -> str:
    try:
        data = storage.read_bytes(path)
        return (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); fetch it again.") from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); expected {where}."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def _check_columns(
    name: str,
    header: Sequence[str],
    expected: Sequence[str],
    whose: str,
    open_ended: bool,
    advice: str,
) -> None:
    missing = [column for column in expected if column not in header]
    extra = [column for column in header if column not in expected]
    twice = sorted({column for column in header if header.count(column) > 1})
    twice = [column for column in twice if not open_ended or column in expected]
    if not (missing or twice or (extra and not open_ended)):
        return
    _refuse_other_formats(name, header, missing)
    parts = []
    if missing:
        named = [f"{column!r}{_misspelt(column, extra)}" for column in missing]
        parts.append("lacks " + ", ".join(named))
    if extra and (missing or not open_ended):
        shown = ", ".join(repr(column[:60]) for column in extra[:12])
        more = f" and {len(extra) - 12} more" if len(extra) > 12 else ""
        parts.append(f"has {'other' if open_ended else 'unknown'} columns {shown}{more}")
    if twice:
        parts.append("names twice " + ", ".join(repr(column) for column in twice))
    least = "at least " if open_ended else ""
    many = f"{len(expected)} columns" if len(expected) > 1 else f"column {expected[0]!r}"
    raise ValueError(f"{name} {' and '.join(parts)}; expected {least}{whose} {many}{advice}.")


def _refuse_other_formats(name: str, header: Sequence[str], missing: Sequence[str]) -> None:
    """Says so where the whole table is written in another way."""
    if not header:
        raise ValueError(f"{name} is empty and lacks {missing[0]!r}; expected a CSV table with it.")
    if any("\0" in cell for cell in header):
        raise ValueError(f"{name} holds NUL bytes (UTF-16, or damaged); save it as UTF-8.")
    if len(header) == 1:
        for mark, word in _DELIMITERS.items():
            if header[0].count(mark) >= len(missing) // 2 and mark in header[0]:
                raise ValueError(
                    f"{name} separates its cells by {word} ({mark!r}); expected commas: save it "
                    "as comma-separated CSV."
                )


def _misspelt(column: str, extra: Iterable[str]) -> str:
    hint = suggestion(column, [name for name in extra if name])
    return hint.replace("did you mean", "is it misspelt as") if hint else ""


def _rows(
    lines: Iterator[list[str]], header: list[str], kept: set[str], open_ended: bool
) -> Iterator[tuple[int, dict[str, str]]]:
    for cells in lines:
        if not cells:
            continue
        if open_ended:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
        padded = cells + [""] * (len(header) - len(cells))
        row = {n: c.strip() for n, c in zip(header, padded, strict=False) if n in kept}
        row[_CELLS] = str(len(cells) - len(header))
        yield lines.line_num, row  # type: ignore[attr-defined]

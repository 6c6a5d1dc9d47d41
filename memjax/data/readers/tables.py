"""CSV tables of data sets: read whole, columns checked by name, rows numbered as an editor does."""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple, TextIO, cast

from memjax.data import storage
from memjax.data.images import open_binary
from memjax.data.labels.space import suggestion
from memjax.data.problems import Problems

OLDEST = 120
_CELLS = "#cells"
_LONGEST = 1 << 24  # characters of a line
_DELIMITERS = ",;\t|"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
        unread: Columns that are there and are not kept.
    """

    name: str
    rows: list[tuple[int, dict[str, str]]]
    unread: tuple[str, ...] = ()


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

    As spreadsheets and programs write them: cells may be separated by semicolons, tabs or bars, the
    text may be UTF-16 with its mark, columns may be written in another case, lines may be blank.

    Args:
        path: Local path or URL.
        expected: Columns that must be there.
        whose: Whose columns these are, such as ``"CheXpert's"``.
        where: What folder was expected, said where the file cannot be read.
        optional: Columns that are kept if they are there; None keeps every column.
        open_ended: Whether other columns may stand beside the expected ones; they are dropped.
        advice: The way out, said where columns are missing.

    Raises:
        ValueError: The file cannot be read, is no CSV table in Unicode, or has other columns.
    """
    name = path.rsplit("/", 1)[-1]
    known = [*expected, *(optional or ())]
    with open_text(path, where) as file:
        skipped, delimiter, lines = _separated(file, expected)
        cells = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = _named(next(cells, []), known)
            if open_ended:
                while header and not header[-1]:
                    header.pop()
            closed = not open_ended or optional is None
            kept = {*header} if closed else {*known}
            _check_columns(name, header, expected, kept, whose, open_ended, advice)
            rows = [
                (number + skipped, row) for number, row in _rows(cells, header, kept, open_ended)
            ]
        except csv.Error as error:
            raise ValueError(
                f"{path} is not a CSV table ({error}, in the row that ends at line "
                f"{cells.line_num + skipped}); save it again as CSV, UTF-8."
            ) from error
    return Table(name, rows, tuple(column for column in header if column not in kept))


def _separated(file: TextIO, expected: Sequence[str]) -> tuple[int, str, Iterator[str]]:
    """Lines skipped, what separates the cells, and all other lines.

    It is what gives most of the expected columns, or most columns where none is expected. Excel
    names it in a first line ``sep=;``.
    """
    first = file.readline(_LONGEST)
    named = re.fullmatch(r"\s*\"?sep=(.)\"?\s*", first)
    if named:
        return 1, named[1], lines_of(file)
    wanted = {name.casefold() for name in expected}

    def found(mark: str) -> int:
        cells = [cell.strip(' "').casefold() for cell in first.split(mark)]
        return len(wanted.intersection(cells)) if wanted else len(cells)

    return 0, max(_DELIMITERS, key=found), itertools.chain([first], lines_of(file))


def _named(cells: Iterable[str], known: Sequence[str]) -> list[str]:
    """The header; a column that is known in another case is called as it is known."""
    header = [cell.strip("\ufeff \t\r\n") for cell in cells]
    alike = {name.casefold(): name for name in known if name not in header}
    folded = [name.casefold() for name in header]
    return [
        alike[low] if low in alike and folded.count(low) == 1 else name
        for name, low in zip(header, folded, strict=True)
    ]


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
    with open_text(path, where) as file:
        return [line.strip() for line in lines_of(file) if line.strip()]


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of an open text file with their ends; one without end is refused."""
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise ValueError(
                f"a line of {file.name} has more than {_LONGEST:,} characters; it is no table or "
                "list of text, or damaged."
            )
        yield line


@contextlib.contextmanager
def open_text(path: str, where: str) -> Iterator[TextIO]:
    """Opens a text file line by line: UTF-8 or, with its mark, UTF-16; ``.gz`` is unpacked.

    Raises:
        ValueError: The file cannot be read or is no such text; ``where`` says what was expected.
    """
    if not storage.is_url(path) and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(
            f"{path} cannot be read (it is a folder or a pipe, no file); expected {where}."
        )
    try:
        with storage.explained(path), open_binary(path) as raw:
            data = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
            head = data.read(128)
            data.seek(0)
            _refuse_what_came_instead(path, head.lstrip(codecs.BOM_UTF8).lstrip().lower())
            yield io.TextIOWrapper(
                cast(IO[bytes], data),
                encoding="utf-16" if head.startswith(_UTF_16) else "utf-8-sig",
                newline="",
            )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); fetch it again.") from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); expected {where}."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error


def _refuse_what_came_instead(path: str, head: bytes) -> None:
    """A web page or a Git LFS pointer would be read as text."""
    if head.startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            f"{path} is a web page, not the file itself: fetch it from its raw address."
        )
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the file itself: fetch it by `git lfs pull`."
        )


def _check_columns(
    name: str,
    header: Sequence[str],
    expected: Sequence[str],
    kept: set[str],
    whose: str,
    open_ended: bool,
    advice: str,
) -> None:
    missing = [column for column in expected if column not in header]
    extra = [column for column in header if column not in expected]
    twice = sorted({column for column in header if header.count(column) > 1})
    twice = [column for column in twice if column and (column in kept or not open_ended)]
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
    many = f"{len(expected)} columns" if len(expected) != 1 else f"column {expected[0]!r}"
    if not expected:
        least, many = "", "columns once each"
    raise ValueError(f"{name} {' and '.join(parts)}; expected {least}{whose} {many}{advice}.")


def _refuse_other_formats(name: str, header: Sequence[str], missing: Sequence[str]) -> None:
    """Says so where the whole table is written in another way."""
    if not header:
        raise ValueError(f"{name} is empty and lacks {missing[0]!r}; expected a CSV table with it.")
    if any("\0" in cell for cell in header):
        raise ValueError(f"{name} holds NUL bytes (UTF-16, or damaged); save it as UTF-8.")


def _misspelt(column: str, extra: Iterable[str]) -> str:
    hint = suggestion(column, [name for name in extra if name])
    return hint.replace("did you mean", "is it misspelt as") if hint else ""


def _rows(
    lines: Iterator[list[str]], header: list[str], kept: set[str], open_ended: bool
) -> Iterator[tuple[int, dict[str, str]]]:
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if open_ended:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
        padded = cells + [""] * (len(header) - len(cells))
        row = {n: c.strip() for n, c in zip(header, padded, strict=False) if n in kept}
        row[_CELLS] = str(len(cells) - len(header))
        yield lines.line_num, row  # type: ignore[attr-defined]

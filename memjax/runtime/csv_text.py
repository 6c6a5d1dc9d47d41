"""The one writer of CSV files: no cell that a spreadsheet would run as a formula."""

import csv
import io
from collections.abc import Iterable
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_text(
    rows: Iterable[Iterable[Any]], *, digits: int | None = None, line_end: str = "\n"
) -> str:
    """Returns rows, the header among them, as CSV.

    A text that a spreadsheet would take for a formula (it begins with ``= + - @`` or a control
    character) gets an apostrophe in front; numbers stay as they are.

    Args:
        rows: Cells of each row.
        digits: Significant digits that floats are written with; None: all.
        line_end: What ends a row; RFC 4180 has CRLF.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=line_end)
    writer.writerows([_cell(cell, digits) for cell in row] for row in rows)
    return out.getvalue()


def _cell(cell: Any, digits: int | None) -> Any:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA) else cell
    return f"{cell:.{digits}g}" if digits and isinstance(cell, float) else cell

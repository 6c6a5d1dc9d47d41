"""Files of prompts as people have them, read into rows: JSON lines, lists, tables.

==================  ==============================================================================
``.jsonl``          one JSON object a line, or one text in quotes
``.json``           the same, or a list of them
``.txt``            one caption a line, as it is
``.csv``, ``.tsv``  a table with a column ``caption``, ``prompt`` or ``text``
==================  ==============================================================================

Each may be packed (``.gz``).
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.data.readers.tables import cells_of, lines_of, open_text, read_table, surplus_cells
from memjax.runtime.json import loads

CAPTIONS = ("caption", "prompt", "text")
EXAMPLE = '{"caption": "a film of a chest"} or {"labels": {"Edema": "positive", "view": "AP"}}'
FORMS = (
    f"write one JSON object a line, such as {EXAMPLE}, one caption a line into a .txt file, or a "
    ".csv table with a column called caption, prompt or text"
)
# What commands write about a prompt; a row that was an output once does not say it again.
RESULTS = (
    *("score", "score_rms", "flagged", "detectors", "per_step", "provenance", "tokens_cut"),
    *("images", "tokens", "words", "shares", "picture", "arm", "target", "target_rms"),
    *("iterations", "reached", "caption_used", "magnitude_before", "magnitude_after"),
    *("first_step_before", "first_step_after", "statistic_rms_before", "statistic_rms_after"),
    *("likeness", "clip", "images_before", "images_after"),
)
_VERDICTS = RESULTS[:7]  # left out of rows that say nothing of where they come from, too
_OTHERS = {
    **dict.fromkeys((".parquet", ".arrow"), "pandas.read_parquet(…).to_csv(…)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "the spreadsheet as CSV UTF-8"),
    **dict.fromkeys(
        (".pickle", ".pkl", ".pt", ".pth"), "a program that trusts it: it can run code"
    ),
    **dict.fromkeys((".docx", ".rtf", ".pdf"), "the program that made it, as text"),
}
_DEPTH = 32
_Found = Iterator[tuple[str, Any]]  # where it stands, and what


def read_prompts(path: str) -> list[dict[str, Any]]:
    """Reads prompt rows; each needs ``caption`` or ``labels`` and gets an ``id`` if it has none.

    A row with neither takes its caption from ``prompt`` or ``text``. Other fields are carried
    along, but for :data:`RESULTS`: it is said which.

    Raises:
        ValueError: If the file is missing, empty or of another kind, or a row is no such row; names
            the line.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{path} is not a file: give a file of prompts (.jsonl, .txt or .csv).")
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    if suffix in _OTHERS:
        raise ValueError(
            f"{path} is a {suffix} file, which is not read as prompts: save it as .csv or .txt, by "
            f"{_OTHERS[suffix]}."
        )
    read = _READERS.get(suffix, _json_lines)
    rows: list[dict[str, Any]] = []
    dropped: dict[str, int] = {}
    for where, found in read(path):
        rows.append(_row(found, where, len(rows), dropped))
    if not rows:
        raise ValueError(f"{path} holds no prompt: {FORMS}.")
    if dropped:
        said = ", ".join(f"{name} of {count}" for name, count in dropped.items())
        print(f"{path}: results of an earlier command are left out ({said} of {len(rows)} rows)")
    _refuse_repeated_ids(path, rows)
    return rows


def _json_lines(path: str) -> _Found:
    with open_text(path, "a file of prompts") as file:
        yield from _objects(path, enumerate(lines_of(file), start=1))


def _objects(path: str, lines: Iterable[tuple[int, str]]) -> _Found:
    first = True
    for number, line in lines:
        if line.strip():
            where = f"{path} line {number}"
            yield where, _parsed(line.rstrip(), where, FORMS if first else "")
            first = False


def _parsed(text: str, where: str, advice: str = "") -> Any:
    way = f": {advice}" if advice else ""
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{where} is not JSON ({reason}){way}.") from None


def _json_file(path: str) -> _Found:
    with open_text(path, "a file of prompts") as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from _objects(path, enumerate(text.split("\n"), start=1))
        return
    for number, found in enumerate(_parsed(text, path), start=1):
        yield f"{path} entry {number}", found


def _text_lines(path: str) -> _Found:
    """One caption a line as it stands; JSON lines under the wrong name are read as such."""
    with open_text(path, "a file of prompts") as file:
        lines = ((n, line.strip()) for n, line in enumerate(lines_of(file), start=1))
        filled = ((number, line) for number, line in lines if line)
        first = next(filled, (0, ""))
        if _is_object(first[1]):
            yield from _objects(path, itertools.chain([first], filled))
            return
        for number, line in itertools.chain([first] if first[1] else [], filled):
            where = f"{path} line {number}"
            if "\0" in line:
                raise ValueError(f"{where} holds a NUL byte: save it as text, UTF-8.")
            yield where, {"caption": line}


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(loads(line), dict)
    except ValueError:
        return False


def _table(path: str) -> _Found:
    table = read_table(
        path, (), whose="a table of prompts'", where="a table", optional=None, open_ended=True
    )
    header = list(cells_of(table.rows[0][1])) if table.rows else []
    if header and not _caption_field(header):
        raise ValueError(
            f"{path} has no column called caption, prompt or text (it has "
            f"{', '.join(repr(name[:40]) for name in header[:12])}): name one so, or save one "
            "caption a line as .txt."
        )
    for number, row in table.rows:
        where = f"{path} row {number}"
        if (more := surplus_cells(row)) > 0:
            raise ValueError(
                f"{where} has {more} cell{'s' * (more > 1)} more than the header: put captions "
                "that hold the separator in double quotes, or save one caption a line as .txt."
            )
        yield where, {name: cell for name, cell in cells_of(row).items() if name and cell}


_READERS: dict[str, Callable[[str], _Found]] = {
    ".txt": _text_lines,
    ".text": _text_lines,
    ".csv": _table,
    ".tsv": _table,
    ".json": _json_file,
}


def _caption_field(names: Iterable[str]) -> str:
    """What holds the caption, in any case; ``caption`` before ``prompt`` before ``text``."""
    folded = {name.casefold(): name for name in names}
    return next((folded[name] for name in CAPTIONS if name in folded), "")


def _row(found: Any, where: str, index: int, dropped: dict[str, int]) -> dict[str, Any]:
    row = {"caption": found} if isinstance(found, str) and found.strip() else found
    if isinstance(row, dict) and not _says_something(row):
        texts = [name for name, text in row.items() if isinstance(text, str) and text.strip()]
        field = _caption_field(texts)
        row = {**row, "caption": row[field]} if field else row
    if not isinstance(row, dict) or not _says_something(row):
        raise ValueError(
            f"{where} has neither 'labels' nor 'caption': write an object such as {EXAMPLE}."
        )
    if row.get("caption") is not None and not isinstance(row["caption"], str):
        raise ValueError(f"{where} has the caption {row['caption']!r}, expected a text in quotes.")
    _refuse_what_cannot_be_written(row, where)
    own = {*(RESULTS if "provenance" in row else _VERDICTS)}.intersection(row)
    for name in sorted(own):
        dropped[name] = dropped.get(name, 0) + 1
    kept = {name: value for name, value in row.items() if name not in own}
    name = kept.get("id")
    return {**kept, "id": f"prompt-{index:04d}" if name in (None, "") else str(name)}


def _says_something(row: Mapping[str, Any]) -> bool:
    return row.get("labels") is not None or bool(row.get("caption"))


def _refuse_what_cannot_be_written(row: Mapping[str, Any], where: str) -> None:
    """A lone surrogate is no text, and deep nesting is no row: neither can be written again."""
    if _deeper(row, _DEPTH):
        raise ValueError(f"{where} is nested too deeply: write a plain object.")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half a character (\\u{ord(error.object[error.start]):04x} alone): "
            "write both halves, or the character itself."
        ) from error


def _deeper(value: Any, most: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most == 0 or any(_deeper(item, most - 1) for item in inner)


def _refuse_repeated_ids(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise ValueError(
                f"{path} has two prompts with id {row['id']!r}: make ids unique, or leave them out."
            )
        seen.add(row["id"])

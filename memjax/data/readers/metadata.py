"""Tables of captions beside images, as Hugging Face's ImageFolder has them.

``metadata.jsonl``, ``metadata.csv`` and ``metadata.parquet`` (through pyarrow, which comes with
tensorflow-datasets) name files relative to themselves. The file stands in the first of
:data:`FILE_FIELDS` that a row fills, the caption in the first of :data:`TEXT_FIELDS`.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from memjax.data import storage
from memjax.data.file_tree import FileTree
from memjax.data.images import open_binary
from memjax.data.labels.of_data import class_name
from memjax.data.labels.slots import suggestion
from memjax.data.problems import Problems
from memjax.data.readers.tables import cells_of, read_table, surplus_cells
from memjax.data.records import Record, image_record
from memjax.runtime.json import loads

METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
METADATA_PARQUET = "metadata.parquet"
FILE_FIELDS = ("file_name", "image", "filename", "file", "path", "image_path")
TEXT_FIELDS = ("text", "caption", "prompt")
OTHER_FORM = "found under a name of another case or Unicode form"


class Entry(NamedTuple):
    """One image: its place below the root, and what is known about it."""

    place: str
    caption: str = ""
    classes: tuple[tuple[str, str], ...] = ()
    captions: tuple[str, ...] = ()
    repeats: int = 1

    def record(self, base: str) -> Record:
        """The image's record."""
        known = self._asdict()
        place = known.pop("place")
        return image_record(f"{base}/{place}", place, **known)


class Names:
    """Places by name: as written, else in another Unicode form, else in another case.

    macOS hands out decomposed letters (NFD) and tables are mostly composed (NFC); Windows does not
    tell ``1.JPG`` from ``1.jpg``. A name that fits several places fits none.
    """

    def __init__(self, places: Iterable[str]):
        self._places = set(places)
        self._alike: tuple[dict[str, set[str]], ...] = ()

    def find(self, place: str) -> str | None:
        """The place of a file, or None."""
        if place in self._places:
            return place
        if not self._alike:
            self._alike = tuple({} for _ in _FORMS)
            for known in self._places:
                for form, names in zip(_FORMS, self._alike, strict=True):
                    names.setdefault(form(known), set()).add(known)
        for form, names in zip(_FORMS, self._alike, strict=True):
            found = names.get(form(place), set())
            if found:
                return next(iter(found)) if len(found) == 1 else None
        return None


def composed(text: str) -> str:
    """The text in composed letters (NFC)."""
    return unicodedata.normalize("NFC", text)


_FORMS = (composed, lambda text: composed(composed(text).casefold()))


def tables_of(files: Iterable[str]) -> list[str]:
    """The tables to read, one a folder: of several, JSON lines first, then CSV."""
    found: dict[str, str] = {}
    for name in (METADATA_PARQUET, METADATA_CSV, METADATA):
        found |= {p[: -len(name)]: p for p in files if p.rsplit("/", 1)[-1] == name}
    return sorted(found.values())


def entries_of_tables(
    base: str,
    tables: Sequence[str],
    tree: FileTree,
    fields: tuple[str, ...],
    problems: Problems,
) -> list[Entry]:
    """The images that tables name, in the order of their places; others are counted.

    Raises:
        ValueError: A table cannot be read or lacks the files' names, or no row has a class field.
    """
    entries: dict[str, Entry] = {}
    known: set[str] = set()
    left = set(tree.images)
    names = Names(tree.images)
    for table in tables:
        for where, row in _READERS[table.rsplit(".", 1)[-1]](base, table, problems):
            known |= set(row)
            place = _place(base, table.rpartition("/")[0], where, row, tree, names, problems)
            if place is None:
                continue
            left.discard(place)
            entry = _entry(place, row, where, fields, problems)
            if entry is None:
                continue
            if entry.place in entries:
                problems.add("repeated file", f"{where}: {entry.place}")
                continue
            entries[entry.place] = entry
    for field in fields:
        if known and field not in known:
            what = " or ".join(sorted({table.rsplit("/", 1)[-1] for table in tables}))
            raise ValueError(
                f"class_fields names {field!r}, which no line of {what} "
                f"has{suggestion(field, known)}; expected names out of {sorted(known)}."
            )
    for place in sorted(left):
        problems.add("image that no table names", place)
    return [entries[place] for place in sorted(entries)]


def _csv_rows(base: str, table: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of ``metadata.csv``; one with too many or too few cells is counted."""
    found, first = None, None
    for name in FILE_FIELDS:
        try:
            found = read_table(
                f"{base}/{table}",
                (name,),
                whose="a caption table's",
                where="a table of captions",
                optional=None,
                open_ended=True,
                advice=" with the images' places: rename that column, or a file that is no table",
            )
            break
        except ValueError as error:
            first = first or error
    if found is None:
        raise first or ValueError(table)
    for number, row in found.rows:
        where, surplus = f"{table} row {number}", surplus_cells(row)
        if surplus:
            problems.add("wrong number of cells", f"{where}: {surplus:+d}")
            continue
        cells: dict[str, Any] = cells_of(row)
        repeats = cells.pop("repeats", "")
        if repeats:
            cells["repeats"] = int(repeats) if re.fullmatch("[0-9]{1,9}", repeats) else repeats
        yield where, cells


def _json_rows(base: str, table: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = storage.read_bytes(f"{base}/{table}").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{base}/{table} is not UTF-8 text ({error.reason}); save it as UTF-8."
        ) from error
    # Not splitlines(): a JSON string may hold U+2028 and the like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{table} line {number}"
        try:
            row = loads(line)
        except ValueError as error:
            problems.add("line is not JSON", f"{where} ({str(error).split(':')[0]})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.add("line is no object", f"{where}: {line.strip()[:40]!r}")


def _parquet_rows(
    base: str, table: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet, types

    def plain(kind: pyarrow.DataType) -> bool:
        inner = kind.value_type if types.is_list(kind) or types.is_dictionary(kind) else kind
        return types.is_primitive(inner) or types.is_string(inner) or types.is_large_string(inner)

    path, number = f"{base}/{table}", 0
    try:
        with storage.explained(path), open_binary(path) as file:
            opened = parquet.ParquetFile(file)
            names = [field.name for field in opened.schema_arrow if plain(field.type)]
            if not set(names) & set(FILE_FIELDS):
                raise ValueError(
                    f"{path} has no column of file names, only {opened.schema_arrow.names}; "
                    f"expected one of {FILE_FIELDS}: images inside the table are not read, save "
                    "them as files."
                )
            for batch in opened.iter_batches(4096, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{table} row {number}", {k: v for k, v in row.items() if v is not None}
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no Parquet table ({reason}); write it again.") from error


_READERS = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}


def _place(
    base: str,
    folder: str,
    where: str,
    row: Mapping[str, Any],
    tree: FileTree,
    names: Names,
    problems: Problems,
) -> str | None:
    """Where a row's image lies; None where there is none, which is counted."""
    name = next((v for f in FILE_FIELDS if isinstance(v := row.get(f), str) and v), None)
    if name is None:
        problems.add("line without file_name", f"{where}{suggestion('file_name', row)}")
        return None
    below = f"{os.path.abspath(base)}/"
    inner = name.removeprefix(below) if name.startswith(below) else f"{folder}/{name}"
    place = _inside(inner.lstrip("/"), "" if name.startswith(below) else name)
    if place is None:
        problems.add("file outside the folder", f"{where}: {name[:80]!r}")
        return None
    found = names.find(place)
    if found is None:
        kind = "file of another kind" if place in tree.others else "missing file"
        problems.add(tree.wrong.get(place, kind), f"{where}: {place[:120]}")
    elif found != place:
        problems.note(OTHER_FORM)
    return found


def _inside(place: str, name: str) -> str | None:
    parts = place.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in name or "\0" in name or ".." in parts:
        return None
    return "/".join(part for part in parts if part not in ("", "."))


def _entry(
    place: str, row: Mapping[str, Any], where: str, fields: tuple[str, ...], problems: Problems
) -> Entry | None:
    text, repeats = next((v for f in TEXT_FIELDS if (v := row.get(f))), ""), row.get("repeats", 1)
    texts = _texts(text)
    if texts is None:
        problems.add("text is no string", f"{where}: {str(text)[:40]!r}")
        return None
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        problems.add("repeats is no count", f"{where}: {str(repeats)[:40]!r}")
        return None
    classes = _classes(row, fields, where, problems)
    if not texts and not fields:
        named = any(field in row for field in TEXT_FIELDS)
        problems.add("empty caption", f"{where}{'' if named else _hint(row)}")
        return None
    if classes is None:
        return None
    several = texts if len(texts) > 1 else ()
    return Entry(place, texts[0] if texts else "", classes, several, repeats)


def _hint(row: Mapping[str, Any]) -> str:
    return " (did you mean 'description'?)" if "description" in row else suggestion("text", row)


def _texts(given: Any) -> tuple[str, ...] | None:
    """The captions of a line with single spaces, empty ones left out; None if one is no string."""
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        return None
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def _classes(
    row: Mapping[str, Any], fields: Sequence[str], where: str, problems: Problems
) -> tuple[tuple[str, str], ...] | None:
    found = []
    for field in fields:
        value = row.get(field)
        if isinstance(value, list | dict):
            problems.add("class label is no text", f"{where}: {field}={str(value)[:40]}")
            return None
        if value is not None and str(value).strip():
            found.append((class_name(field), str(value).strip()))
    return tuple(found)

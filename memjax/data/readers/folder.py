"""Any folder of images: captions beside them, a table of them, or one sub-folder a class.

===================================  ===========================================================
``0001.jpg`` and ``0001.txt``        the text is the caption
``metadata.jsonl``                   ``{"file_name": "a/0001.jpg", "text": "…", "colour": "red"}``
``metadata.csv``                     the same as columns ``file_name``, ``text`` and more
``cat/1.jpg``, ``dog/2.jpg``         the first sub-folder is the class, where none of the above
===================================  ===========================================================

Tables are those of Hugging Face's ImageFolder and name files relative to themselves, so images
may lie in ``images`` beside one. In a folder with both, ``metadata.jsonl`` is read;
``metadata.parquet`` alone is refused. A line's ``text`` may be a list of captions, the usual one
first; ``repeats`` says how often the image stands in an epoch of fine-tuning.

Sub-folders ``valid``, ``val``, ``validation`` and ``test`` are held out, ``train`` is not part of
a name. Without them a share is held out by the content of the files, so that a file and its copies
are always on the same side.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memjax.data import storage
from memjax.data.file_tree import content_key, share_of, size_of, walk_files
from memjax.data.labels.of_data import class_name
from memjax.data.labels.slots import suggestion
from memjax.data.problems import Problems
from memjax.data.readers.tables import cells_of, read_table, surplus_cells
from memjax.data.records import Record, image_record

SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
METADATA_PARQUET = "metadata.parquet"
HELD_OUT_FOLDERS: tuple[str, ...] = ("valid", "val", "validation", "test")
_TABLES: tuple[str, ...] = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
_INSTEAD = {
    "file_name": ("image", "filename", "file", "path", "image_path"),
    "text": ("caption", "prompt", "description"),
}


class _Entry(NamedTuple):
    """One image: its place below the root, and what is known about it."""

    place: str
    caption: str = ""
    classes: tuple[tuple[str, str], ...] = ()
    captions: tuple[str, ...] = ()
    repeats: int = 1

    def record(self, base: str) -> Record:
        known = self._asdict()
        place = known.pop("place")
        return image_record(f"{base}/{place}", place, **known)


def read_folder(
    root: str | os.PathLike[str],
    *,
    class_fields: Sequence[str] = (),
    held_out_fraction: float = 0.0,
    seed: int = 0,
    strict: bool = False,
    examples: int = 5,
) -> tuple[list[Record], list[Record], Problems]:
    """Reads a folder of images.

    An image without its caption, a line that is no such object, a file that is not there: left
    out, counted and named.

    Args:
        root: The folder, or ``gs://…``.
        class_fields: Fields of the table that become class labels.
        held_out_fraction: Share held out by content, where no sub-folder is held out.
        seed: Decides which share.
        strict: Refuse a folder with problems.
        examples: How many examples of each kind of problem are kept.

    Returns:
        Training and held-out records in the order of their names, and what was wrong.

    Raises:
        ValueError: There is no such folder or nothing usable in it, or a class field is unknown.
    """
    if not 0 <= held_out_fraction < 1:
        raise ValueError(f"held_out_fraction is {held_out_fraction}; expected a share in [0, 1).")
    base, problems = storage.root_text(root), Problems(examples)
    files = walk_files(base)
    pictures = [place for place in files if place.lower().endswith(SUFFIXES)]
    if not pictures:
        raise ValueError(
            f"{base} holds no pictures; expected a folder with files that end in "
            f"{', '.join(SUFFIXES)}."
        )
    entries = _entries(base, files, pictures, tuple(class_fields), problems)
    train, held = _split(base, entries, held_out_fraction, seed, problems)
    if strict:
        problems.refuse()
    if not train:
        raise ValueError(f"{base} has no usable training picture. {problems.summary()}")
    return train, held, problems


def _entries(
    base: str,
    files: Sequence[str],
    pictures: Sequence[str],
    fields: tuple[str, ...],
    problems: Problems,
) -> list[_Entry]:
    tables = _tables(base, files)
    if tables:
        return _from_tables(base, tables, set(files), fields, problems)
    if fields:
        raise ValueError(
            f"class_fields is {fields} but {base} holds no {METADATA}; leave it empty or write one."
        )
    texts = {place for place in files if place.lower().endswith(".txt")}
    beside = {place: f"{place.rpartition('.')[0]}.txt" for place in pictures}
    if any(text in texts for text in beside.values()):
        return list(_from_texts(base, beside, texts, problems))
    entries = [_Entry(place, "", _folder_class(place)) for place in pictures]
    unread = [place for place in files if place.lower().endswith(_TABLES)]
    found = {entry.classes for entry in entries}
    if unread and len(found) == 1 and any(found):
        raise ValueError(
            f"{base} holds {unread[0]}, which is not read, and {entries[0].classes[0][1]!r} would "
            f"be the class of every picture; expected captions in {METADATA} or {METADATA_CSV} "
            "(file_name and text): rename the table, or move it out of the folder."
        )
    return entries


def _tables(base: str, files: Sequence[str]) -> list[str]:
    """The tables to read, one a folder.

    Raises:
        ValueError: A folder's only table is one that cannot be read here.
    """
    found: dict[str, str] = {}
    for name in (METADATA_PARQUET, METADATA_CSV, METADATA):
        found |= {p[: -len(name)]: p for p in files if p.rsplit("/", 1)[-1] == name}
    for place in found.values():
        if place.endswith(METADATA_PARQUET):
            raise ValueError(
                f"{base}/{place} is a Parquet table, which is not read; expected {METADATA} or "
                f"{METADATA_CSV}: convert it, such as by pandas.read_parquet(…).to_csv(…)."
            )
    return sorted(found.values())


def _from_texts(
    base: str, beside: Mapping[str, str], texts: set[str], problems: Problems
) -> Iterable[_Entry]:
    for place, text in beside.items():
        if text not in texts:
            problems.add("picture without caption", f"{place} (no {text})")
            continue
        caption = _caption(base, text, problems)
        if caption:
            yield _Entry(place, caption)


def _caption(base: str, place: str, problems: Problems) -> str:
    try:
        text = " ".join(storage.read_bytes(f"{base}/{place}").decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        problems.add("caption is not UTF-8", f"{place} ({error.reason})")
        return ""
    if not text:
        problems.add("empty caption", place)
    return text


def _folder_class(place: str) -> tuple[tuple[str, str], ...]:
    parts = place.split("/")[:-1]
    if parts and parts[0].casefold() in (*HELD_OUT_FOLDERS, "train"):
        parts = parts[1:]
    return (("Class", parts[0]),) if parts else ()


def _from_tables(
    base: str,
    tables: Sequence[str],
    files: set[str],
    fields: tuple[str, ...],
    problems: Problems,
) -> list[_Entry]:
    entries: dict[str, _Entry] = {}
    known: set[str] = set()
    for table in tables:
        read = _rows if table.endswith(METADATA_CSV) else _lines
        for where, row in read(base, table, problems):
            known |= set(row)
            entry = _entry(row, table.rpartition("/")[0], where, files, fields, problems)
            if entry is None:
                continue
            if entry.place in entries:
                problems.add("repeated file", f"{where}: {entry.place}")
                continue
            entries[entry.place] = entry
    for field in fields:
        if known and field not in known:
            raise ValueError(
                f"class_fields names {field!r}, which no line of {_names(tables)} "
                f"has{suggestion(field, known)}; expected names out of {sorted(known)}."
            )
    return [entries[place] for place in sorted(entries)]


def _names(tables: Sequence[str]) -> str:
    return " or ".join(sorted({table.rsplit("/", 1)[-1] for table in tables}))


def _rows(base: str, table: str, problems: Problems) -> Iterable[tuple[str, dict[str, Any]]]:
    """The rows of ``metadata.csv``; one with too many or too few cells is counted."""
    found = read_table(
        f"{base}/{table}",
        ("file_name",),
        whose="a caption table's",
        where="a table of captions",
        optional=None,
        open_ended=True,
        advice=" with the pictures' places: rename that column, or the file if it is no such table",
    )
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


def _lines(base: str, table: str, problems: Problems) -> Iterable[tuple[str, dict[str, Any]]]:
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
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            problems.add("line is not JSON", f"{where} ({str(error).split(':')[0]})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.add("line is no object", f"{where}: {line.strip()[:40]!r}")


def _entry(
    row: Mapping[str, Any],
    folder: str,
    where: str,
    files: set[str],
    fields: tuple[str, ...],
    problems: Problems,
) -> _Entry | None:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        problems.add("line without file_name", f"{where}{_hint('file_name', row)}")
        return None
    place = _inside(f"{folder}/{name}" if folder else name, name)
    if place is None:
        problems.add("file outside the folder", f"{where}: {name[:80]!r}")
        return None
    if place not in files or not place.lower().endswith(SUFFIXES):
        kind = "file of another kind" if place in files else "missing file"
        problems.add(kind, f"{where}: {place[:120]}")
        return None
    texts, repeats = _texts(row), row.get("repeats", 1)
    if texts is None:
        problems.add("text is no string", f"{where}: {str(row['text'])[:40]!r}")
        return None
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        problems.add("repeats is no count", f"{where}: {str(repeats)[:40]!r}")
        return None
    classes = _classes(row, fields, where, problems)
    if not texts and not fields:
        problems.add("empty caption", f"{where}{'' if 'text' in row else _hint('text', row)}")
        return None
    if classes is None:
        return None
    several = texts if len(texts) > 1 else ()
    return _Entry(place, texts[0] if texts else "", classes, several, repeats)


def _hint(field: str, row: Mapping[str, Any]) -> str:
    """`` (did you mean 'prompt'?)``: the field that others use instead, else a near miss."""
    other = next((name for name in _INSTEAD[field] if name in row), None)
    return f" (did you mean {other!r}?)" if other else suggestion(field, row)


def _texts(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The captions of a line with single spaces, empty ones left out; None if one is no string."""
    given = row.get("text", "")
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        return None
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def _inside(place: str, name: str) -> str | None:
    parts = place.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in name or "\0" in name or ".." in parts:
        return None
    return "/".join(part for part in parts if part not in ("", "."))


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


def _split(
    base: str, entries: Sequence[_Entry], fraction: float, seed: int, problems: Problems
) -> tuple[list[Record], list[Record]]:
    held = [e.place.split("/")[0].casefold() in HELD_OUT_FOLDERS for e in entries]
    if not any(held):
        if fraction:
            shares = [share_of(content_key(f"{base}/{e.place}"), seed) for e in entries]
            held = [share < fraction for share in shares]
    else:
        entries, held = _without_copies(base, entries, held, problems)
    pairs = list(zip([entry.record(base) for entry in entries], held, strict=True))
    return [r for r, out in pairs if not out], [r for r, out in pairs if out]


def _without_copies(
    base: str, entries: Sequence[_Entry], held: Sequence[bool], problems: Problems
) -> tuple[list[_Entry], list[bool]]:
    """Leaves out held-out files that are copies of training files; only equal sizes are read."""
    sizes = [size_of(f"{base}/{e.place}") for e in entries]
    common = {s for s, out in zip(sizes, held, strict=True) if out}
    common &= {s for s, out in zip(sizes, held, strict=True) if not out}
    keys = [
        content_key(f"{base}/{e.place}") if s in common else ""
        for e, s in zip(entries, sizes, strict=True)
    ]
    trained = {key for key, out in zip(keys, held, strict=True) if key and not out}
    kept = []
    for entry, key, out in zip(entries, keys, held, strict=True):
        if out and key in trained:
            problems.add("held-out copy of a training picture", entry.place)
        else:
            kept.append((entry, out))
    return [entry for entry, _ in kept], [out for _, out in kept]

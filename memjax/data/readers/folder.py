"""Any folder of images: captions beside them, a table of them, or one sub-folder a class.

===================================  ===========================================================
``0001.jpg`` and ``0001.txt``        the text is the caption (``0001.caption``, too)
``metadata.jsonl``                   ``{"file_name": "a/0001.jpg", "text": "…", "colour": "red"}``
``metadata.csv``, ``.parquet``       the same as columns ``file_name``, ``text`` and more
``10_red dog/1.jpg``                 kohya's: ten times an epoch of fine-tuning (1 to 999); the
                                     caption is the text beside it, else ``red dog``
``cat/1.jpg``, ``dog/2.jpg``         the first sub-folder is the class, where none of the above
===================================  ===========================================================

Tables are those of Hugging Face's ImageFolder, see :mod:`memjax.data.readers.metadata`. A line's
``text`` may be a list of captions, the usual one first; ``repeats`` says how often the image
stands in an epoch of fine-tuning. Folders whose numbers count from 0 or 1 and that have no captions
(``0_cat``, ``1_dog``) are classes.

Sub-folders of :data:`HELD_OUT_FOLDERS` are held out, one of :data:`TRAIN_FOLDERS` is not part of a
name; they may lie below others, as in ``images/train``. Without them a share is held out by the
content of the files, so that a file and its copies are always on the same side.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from memjax.data import storage
from memjax.data.file_tree import FileTree, content_key, file_tree, share_of, size_of, suffix_of
from memjax.data.images import SUFFIXES, open_binary
from memjax.data.problems import Problems
from memjax.data.readers.metadata import (
    METADATA,
    METADATA_CSV,
    OTHER_FORM,
    Entry,
    Names,
    composed,
    entries_of_tables,
    tables_of,
)
from memjax.data.records import Record

HELD_OUT_FOLDERS: tuple[str, ...] = (
    *("valid", "val", "validation", "dev"),
    *("test", "testing", "eval", "evaluation"),
)
TRAIN_FOLDERS: tuple[str, ...] = ("train", "training")
CAPTIONS: tuple[str, ...] = (".txt", ".caption")
_LONGEST = 1 << 20  # bytes of a caption's file
_REGULARIZATION = ("reg", "regularization", "regularisation")
_TABLES: tuple[str, ...] = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")


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

    An image without its caption, a line that is no such object, a file that is not there, a link
    to nothing: left out, counted and named. So is every file that is no image and is not used.

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
    if not storage.is_url(base) and not os.path.isdir(base):
        kind = "is a file" if os.path.exists(base) else "does not exist"
        raise ValueError(f"{base} {kind}; expected a folder of images: check data.root.")
    tree = file_tree(base)
    if not tree.images:
        tree.report(problems)
        found = f" {problems.summary()}" if problems else ""
        found += f" Not read: {problems.passed_over()}." if problems.unread else ""
        raise ValueError(
            f"{base} holds no images; expected a folder with files that end in "
            f"{', '.join(SUFFIXES)}.{found}"
        )
    entries, used = _entries(base, tree, tuple(class_fields), problems)
    tree.report(problems, used)
    train, held = _split(base, entries, held_out_fraction, seed, problems)
    if strict:
        problems.refuse()
    if not train:
        raise ValueError(f"{base} has no usable training image. {problems.summary()}")
    return train, held, problems


def _entries(
    base: str, tree: FileTree, fields: tuple[str, ...], problems: Problems
) -> tuple[list[Entry], set[str]]:
    """The images, and which other files say something about them."""
    tables = tables_of(tree.others)
    if tables:
        return entries_of_tables(base, tables, tree, fields, problems), set(tables)
    if fields:
        raise ValueError(
            f"class_fields is {fields} but {base} holds no {METADATA}; leave it empty or write one."
        )
    texts = _texts_beside(tree, problems)
    kohya = _kohya_folders(tree.images, captioned=bool(texts))
    if texts or kohya:
        return list(_from_texts(base, tree.images, texts, kohya, problems)), set(texts.values())
    splits = _split_folders(tree.images)
    entries = [Entry(place, "", _folder_class(place, splits)) for place in tree.images]
    unread = [place for place in tree.others if suffix_of(place) in _TABLES]
    found = {entry.classes for entry in entries}
    if unread and len(found) == 1 and any(found):
        raise ValueError(
            f"{base} holds {unread[0]}, which is not read, and {entries[0].classes[0][1]!r} would "
            f"be the class of every image; expected captions in {METADATA} or {METADATA_CSV} "
            "(file_name and text): rename the table, or move it out of the folder."
        )
    return entries, set()


def _texts_beside(tree: FileTree, problems: Problems) -> dict[str, str]:
    """Image → the file of its caption, where there is one."""
    names = Names(place for place in tree.others if suffix_of(place) in CAPTIONS)
    found = {}
    for place in tree.images:
        wanted = [place.rpartition(".")[0] + suffix for suffix in CAPTIONS]
        text = next((text for name in wanted if (text := names.find(name))), None)
        if text is not None:
            found[place] = text
            if text not in wanted:
                problems.note(OTHER_FORM)
    return found


def _kohya_folders(images: Sequence[str], *, captioned: bool) -> dict[str, tuple[int, str]]:
    """Folder → repeats and name of each such as ``10_red dog``; without captions, all or none."""
    found = {}
    folders = {place.rpartition("/")[0] for place in images}
    for folder in folders:
        match = re.fullmatch(r"([0-9]{1,3})_(.+)", folder.rsplit("/", 1)[-1])
        if match and int(match[1]):
            found[folder] = int(match[1]), match[2].strip()
    if captioned:
        return found
    numbers = sorted({repeats for repeats, _ in found.values()})
    classes = len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1))
    return {} if classes or len(found) < len(folders) else found


def _from_texts(
    base: str,
    images: Iterable[str],
    texts: Mapping[str, str],
    kohya: Mapping[str, tuple[int, str]],
    problems: Problems,
) -> Iterable[Entry]:
    for place in images:
        repeats, name = kohya.get(place.rpartition("/")[0], (1, ""))
        if place in texts:
            caption = _caption(base, texts[place], problems)
        elif name:
            caption = name
            problems.note("captioned by the name of the folder")
        else:
            beside = place.rpartition(".")[0] + CAPTIONS[0]
            problems.add("image without caption", f"{place} (no {beside})")
            continue
        if caption:
            if name:
                problems.note(f"meant {repeats} times (fine_tune.memorized=repeats obeys that)")
            if name and any(part.casefold() in _REGULARIZATION for part in place.split("/")):
                problems.note("read from a regularization folder like any other")
            yield Entry(place, caption, repeats=repeats)


def _caption(base: str, place: str, problems: Problems) -> str:
    path = f"{base}/{place}"
    try:
        with storage.explained(path), open_binary(path) as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            problems.add("caption of more than 1 MiB", place)
            return ""
        text = " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        problems.add("caption is not UTF-8", f"{place} ({error.reason})")
        return ""
    except OSError as error:
        problems.add("file that cannot be read", f"{place} ({error.strerror or error})")
        return ""
    if not text:
        problems.add("empty caption", place)
    return text


def _split_folders(images: Sequence[str]) -> tuple[str, ...]:
    """Names of folders that are parts of the data set; ``train`` beside classes is a class."""
    folders = [place.casefold().split("/")[:-1] for place in images]
    if any(name in HELD_OUT_FOLDERS for parts in folders for name in parts):
        return (*HELD_OUT_FOLDERS, *TRAIN_FOLDERS)
    return TRAIN_FOLDERS if len({parts[0] if parts else "" for parts in folders}) == 1 else ()


def _part(parts: Sequence[str], splits: Sequence[str]) -> int | None:
    return next((i for i, name in enumerate(parts) if name.casefold() in splits), None)


def _folder_class(place: str, splits: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The folder below the part, else the one above it, else the first."""
    parts = place.split("/")[:-1]
    at = _part(parts, splits)
    if at is not None:
        parts = parts[at + 1 :] or parts[:at]
    return (("Class", composed(parts[0])),) if parts else ()


def _split(
    base: str, entries: Sequence[Entry], fraction: float, seed: int, problems: Problems
) -> tuple[list[Record], list[Record]]:
    held = [_part(e.place.split("/")[:-1], HELD_OUT_FOLDERS) is not None for e in entries]
    if any(held):
        entries, held = _without_copies(base, entries, held, problems)
    elif fraction:
        keys = [_key(base, entry, problems) for entry in entries]
        held = [key is not None and share_of(key, seed) < fraction for key in keys]
        held = [out for out, key in zip(held, keys, strict=True) if key is not None]
        entries = [entry for entry, key in zip(entries, keys, strict=True) if key is not None]
    pairs = list(zip([entry.record(base) for entry in entries], held, strict=True))
    return [r for r, out in pairs if not out], [r for r, out in pairs if out]


def _key(base: str, entry: Entry, problems: Problems) -> str | None:
    """The file's content key; None, and counted, where it cannot be read."""
    try:
        return content_key(f"{base}/{entry.place}")
    except OSError as error:
        problems.add("file that cannot be read", f"{entry.place} ({error.strerror or error})")
        return None


def _without_copies(
    base: str, entries: Sequence[Entry], held: Sequence[bool], problems: Problems
) -> tuple[list[Entry], list[bool]]:
    """Leaves out held-out files that are copies of training files; only equal sizes are read."""
    sizes = [size_of(f"{base}/{e.place}") for e in entries]
    common = {s for s, out in zip(sizes, held, strict=True) if out}
    common &= {s for s, out in zip(sizes, held, strict=True) if not out}
    keys = [
        _key(base, e, problems) if s in common else "" for e, s in zip(entries, sizes, strict=True)
    ]
    trained = {key for key, out in zip(keys, held, strict=True) if key and not out}
    kept = []
    for entry, key, out in zip(entries, keys, held, strict=True):
        if out and key in trained:
            problems.add("held-out copy of a training image", entry.place)
        elif key is not None:
            kept.append((entry, out))
    return [entry for entry, _ in kept], [out for _, out in kept]

"""Every file below a folder, what of it is an image, and a name for what is in it."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from etils import epath

from memjax.data import dicom, storage
from memjax.data.images import SUFFIXES, open_binary
from memjax.data.problems import Problems

_HEAD = 1 << 20
_OTHER_IMAGES: dict[str, str] = dict.fromkeys(
    (".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".exr", ".hdr", ".tga", ".ico", ".j2k"), ""
) | dict.fromkeys(
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".nii", ".mha", ".mhd", ".nrrd", ".npy"), ""
)  # fmt: skip
_WORD = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")


class FileTree(NamedTuple):
    """What lies below a folder; places are relative to it, with ``/``, and sorted.

    Attributes:
        images: Files that are read as images, by their suffix; DICOM files without one, too.
        others: Every other file: captions, tables and what nobody reads.
        wrong: What cannot be read or is an image of a kind that is not, and why.
        passed: Hidden files and folders, and folders met a second time through a link, and why.
    """

    images: tuple[str, ...]
    others: tuple[str, ...]
    wrong: dict[str, str]
    passed: dict[str, str]

    def report(self, problems: Problems, read: Iterable[str] = ()) -> None:
        """Counts and names all that is no image, but what was ``read`` beside them."""
        known = set(read)
        for place, why in self.wrong.items():
            problems.add(why, place)
        for place, why in self.passed.items():
            problems.pass_over(why, place)
        for place in self.others:
            if place not in known:
                problems.pass_over(suffix_of(place) or "without a suffix", place)


def file_tree(base: str) -> FileTree:
    """Looks at every file below a folder or ``gs://…``; nothing but DICOM's mark is read.

    A dangling link, a loop of links, a pipe, an empty image, a folder that cannot be listed: in
    ``wrong``. Linked folders are followed, each real folder once.
    """
    wrong: dict[str, str] = {}
    passed: dict[str, str] = {}
    if storage.is_url(base):
        with storage.explained(base):
            places = sorted(_walk_url(epath.Path(base), "", passed))
    else:
        places = sorted(_walk_local(base, wrong, passed)) if os.path.isdir(base) else []
    images, others = [], []
    for place in places:
        if suffix_of(place) in SUFFIXES or _unnamed_dicom(base, place):
            images.append(place)
        elif suffix_of(place) in _OTHER_IMAGES or place.lower().endswith(".nii.gz"):
            wrong[place] = "image of a kind that is not read"
        else:
            others.append(place)
    return FileTree(tuple(images), tuple(others), dict(sorted(wrong.items())), passed)


def suffix_of(place: str) -> str:
    """``.jpg`` of ``a/B.JPG``; empty where there is none."""
    return os.path.splitext(place)[1].lower()


def _unnamed_dicom(base: str, place: str) -> bool:
    """Whether a local file named ``IM0001``, or by a number such as ``1.2.840.7``, is DICOM."""
    name = place.rsplit("/", 1)[-1]
    if storage.is_url(base) or name == "DICOMDIR" or _WORD.search(name):
        return False
    try:
        with open_binary(f"{base}/{place}") as file:
            return dicom.is_dicom(file.read(dicom.HEAD))
    except OSError:
        return False


def _walk_local(base: str, wrong: dict[str, str], passed: dict[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    # Linked folders after all real ones, so that which of two names is kept is no accident.
    real, linked = [""], list[str]()
    while real or linked:
        prefix = real.pop() if real else linked.pop(0)
        folder = os.path.join(base, prefix)
        if (known := os.path.realpath(folder)) in seen:
            passed[prefix] = "folder that a link names again"
            continue
        seen.add(known)
        try:
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            wrong[prefix or "."] = f"folder that cannot be listed ({error.strerror})"
            continue
        for entry in found:
            place = prefix + entry.name
            if not _is_text(entry.name):
                named = os.fsencode(place).decode("utf-8", "backslashreplace")
                wrong[named] = "file name that is not UTF-8"
            elif entry.name.startswith("."):
                passed[place] = "hidden"
            elif why := _wrong(entry):
                wrong[place] = why
            elif entry.is_dir():
                (linked if entry.is_symlink() else real).append(f"{place}/")
            else:
                yield place


def _is_text(name: str) -> bool:
    """Whether a name can be written into a report; one out of an old ZIP file often cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(entry: os.DirEntry[str]) -> str:
    """Why an entry is neither a folder nor a file with something in it; empty where it is."""
    try:
        known = entry.stat()
    except OSError as error:
        return _WHY.get(error.errno or 0, f"file that cannot be looked at ({error.strerror})")
    if stat.S_ISDIR(known.st_mode):
        return ""
    if not stat.S_ISREG(known.st_mode):
        return "not a regular file"
    return "" if known.st_size or suffix_of(entry.name) not in SUFFIXES else "empty file"


_WHY = {errno.ENOENT: "link to nothing", errno.ELOOP: "link that leads to itself"}


def _walk_url(folder: epath.Path, prefix: str, passed: dict[str, str]) -> Iterator[str]:
    for child in folder.iterdir() if folder.is_dir() else ():
        if child.name.startswith("."):
            passed[prefix + child.name] = "hidden"
        elif child.is_dir():
            yield from _walk_url(child, f"{prefix}{child.name}/", passed)
        else:
            yield prefix + child.name


def size_of(path: str) -> int:
    """Bytes of a file."""
    if not storage.is_url(path):
        return os.path.getsize(path)
    with storage.explained(path):
        return int(epath.Path(path).stat().length)


def content_key(path: str) -> str:
    """SHA-256 of a file's first MiB and its size: the same for a file and its copies."""
    with storage.explained(path), open_binary(path) as file:
        head = file.read(_HEAD)
    size = len(head) if len(head) < _HEAD else size_of(path)
    return key_of(head, size)


def key_of(content: bytes, size: int | None = None) -> str:
    """As :func:`content_key`, of bytes at hand."""
    digest = hashlib.sha256(content[:_HEAD])
    digest.update(str(len(content) if size is None else size).encode())
    return digest.hexdigest()


def share_of(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on seed and key alone: below a fraction is held out."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

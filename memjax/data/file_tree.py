"""Every file below a folder, and a name for what is in it."""

import hashlib
import os
from collections.abc import Iterator

from etils import epath

from memjax.data import storage
from memjax.data.images import open_binary

_HEAD = 1 << 20


def walk_files(base: str) -> list[str]:
    """Places of all files below a folder or ``gs://…``, sorted; hidden ones are left out.

    Linked folders are followed, each real folder once.
    """
    if storage.is_url(base):
        with storage.explained(base):
            return sorted(_walk_url(epath.Path(base), ""))
    return sorted(_walk_local(base))


def _walk_local(base: str) -> Iterator[str]:
    seen: set[str] = set()
    for folder, names, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        names[:] = [] if real in seen else [name for name in names if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        place = os.path.relpath(folder, base).replace(os.sep, "/")
        prefix = "" if place == "." else f"{place}/"
        yield from (prefix + name for name in files if not name.startswith("."))


def _walk_url(folder: epath.Path, prefix: str) -> Iterator[str]:
    for child in folder.iterdir() if folder.is_dir() else ():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _walk_url(child, f"{prefix}{child.name}/")
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

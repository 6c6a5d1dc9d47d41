"""Whole files or none: temporary names, then a rename; what a kill left behind is removed."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# .NAME.PID-HOST.tmp or .old; version 0.1 left out the host.
_LEFTOVER = re.compile(r"\.(.+)\.(\d+)(?:-([0-9a-f]{8}))?\.(tmp|old)")
_DAY = 86_400.0  # seconds after which a file of another host's process counts as left
_LONGEST = 180  # bytes of a name that its temporary name repeats
_SWAP = 2  # RENAME_EXCHANGE of Linux' renameat2


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def beside(path: Path, kind: str = "tmp") -> Path:
    """Returns this process's temporary name for a file or folder, in the same folder."""
    name = path.name.encode()[:_LONGEST].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}-{_host()}.{kind}")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Gives an error of the operating system the path it lacks; a full disk names this one."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL or (error.errno is not None and error.filename is None):
            error.filename = os.fspath(path)
        raise


def said_of(error: OSError) -> str:
    """Returns one sentence on what the operating system refused; for a full disk, the way out."""
    if error.errno not in _DISK_FULL:
        return str(error)
    where = "a file" if error.filename is None else str(error.filename)
    return (
        f"{where} could not be written ({(error.strerror or 'no space left').lower()}): free space "
        "on that disk or choose a folder on another, then start the same command again; what was "
        "there before is as it was."
    )


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` once the block has ended well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes ``data`` so that ``path`` never holds half of it; makes the folder if need be."""
    with replacing(path) as file:
        file.write(data)
    return Path(path)


def write_all(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that appear together: all under other names first, then renamed in order."""
    stage = beside(out / "report")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        for name, data in files.items():
            with naming(out / name):
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                with open(stage / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
        for name in files:
            (out / name).parent.mkdir(exist_ok=True)
            (stage / name).replace(out / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Puts a finished folder in the place of another; there is one at every moment.

    .. note:: Where the system cannot exchange two folders in one step (a network's file system),
       the old one is put aside first, and :func:`clear_leftovers` brings it back after a kill.
    """
    if target.is_dir() and _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = beside(target, "old")
    shutil.rmtree(old, ignore_errors=True)
    if target.is_dir():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.is_dir():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; returns whether the system could."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD
    return rename is not None and not rename(
        here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_SWAP)
    )


def clear_leftovers(places: Iterable[Path], *, hostless: bool = False) -> None:
    """Removes temporary files and folders of processes that are gone.

    A folder that was put aside and whose place is empty is put back. What another host's process
    wrote is left alone until it is a day old; what cannot be removed stays.

    Args:
        places: Paths that may be such leftovers; others are skipped.
        hostless: Whether names of version 0.1 count, which a user's hidden file may have, too.
    """
    for path in places:
        match = _LEFTOVER.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match is None or not (match[3] or hostless):
                continue
            if not _is_left(match, time.time() - path.stat().st_mtime):
                continue
            target = path.with_name(match[1])
            if match[4] == "old" and not target.exists():
                os.replace(path, target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _is_left(match: re.Match[str], age: float) -> bool:
    if match[3] != _host():
        return age > _DAY
    number = int(match[2])
    if number == os.getpid():  # of a container before this one: it writes nothing yet
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False

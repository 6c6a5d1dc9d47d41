"""Who may write where: one lock for every command, which also says what memjax wrote there.

A folder is held through its ``.lock``, a single file ``NAME`` through ``.NAME.lock`` beside it. The
operating system lets go of it when the process ends, however it ends. The file lists what memjax
writes there, one name a line; it stays, and so tells memjax's files from a user's.
"""

import contextlib
import errno
import functools
import glob
import logging
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from memjax.core.names import RUN_FILE
from memjax.runtime.files import clear_leftovers, naming

logger = logging.getLogger(__name__)
Kind = Literal["folder", "file", "whole"]
LOCK_FILE = ".lock"
_HEAD = "# memjax holds this file while it writes here; these names are its own:"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextlib.contextmanager
def hold(
    target: str | os.PathLike[str],
    writes: Iterable[str] = (),
    *,
    reads: Iterable[str] = (),
    force: bool = False,
    flag: str = "out",
    kind: Kind = "folder",
) -> Iterator[Path]:
    """Holds a folder, or one file, against other processes; a folder is made if missing.

    Removes what killed processes left there. Folders that were made for it and are still empty at
    the end are taken away again. May be entered again by who holds it.

    Args:
        target: What is held.
        writes: Names in the folder (for a file: further ones beside it) that will be written.
        reads: Files and folders that are read meanwhile; empty names are skipped.
        force: Replace files that memjax did not write.
        flag: Name of the command's flag, for what is said.
        kind: ``folder``, ``file``, or ``whole`` for what is replaced as a whole, with nothing of
            a user's in it: that its caller has made sure of.

    Yields:
        ``target``.

    Raises:
        ValueError: Another process holds it; ``target`` is no folder, or no file; what would be
            written is read, or is there and not memjax's.
    """
    target = Path(target)
    folder = target if kind == "folder" else target.parent
    lock = folder / (LOCK_FILE if kind == "folder" else f".{target.name}{LOCK_FILE}")
    names = [target.name, *writes] if kind == "file" else list(writes)
    _check_kind(target, kind, flag)

    def check() -> list[str]:
        own = _own_names(lock)
        _refuse_inputs([folder / name for name in names], own, reads, flag)
        foreign = [n for n in names if own is not None and n not in own and _there(folder / n)]
        if foreign and not force:
            more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
            raise ValueError(
                f"{folder / foreign[0]}{more} is there and was not written by this command: choose "
                f"another --{flag}, or give --force to replace it."
            )
        return [n for n in dict.fromkeys(names) if own is not None and n not in own]

    if lock.is_dir():
        raise ValueError(f"{lock} is a folder of another program: choose another --{flag}.")
    check()
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    key = lock.resolve()
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, absent)
        if key not in _held.get():
            stack.enter_context(_locked(lock, folder, target))
            token = _held.set(_held.get() | {key})
            stack.callback(_held.reset, token)
            clear_leftovers(_hidden(target, kind), hostless=kind == "whole")
        _add_names(lock, check())
        yield target


def _hidden(target: Path, kind: Kind) -> Iterator[Path]:
    """Yields what may be leftovers: hidden files of the folder and of those in it, or beside."""
    if kind == "folder":
        yield from target.glob(".*")
        yield from target.glob("*/.*")
    else:
        yield from target.parent.glob(f".{glob.escape(target.name)}.*")


def _check_kind(target: Path, kind: Kind, flag: str) -> None:
    if kind == "file" and target.is_dir():
        raise ValueError(
            f"--{flag}={target} is a folder, expected a file to write: add a file name."
        )
    if target.is_symlink() and not target.exists():
        raise ValueError(
            f"--{flag}={target} is a link to {os.readlink(target)}, which is not there: make that "
            "folder, or choose another name."
        )
    if kind == "folder" and target.exists() and not target.is_dir():
        raise ValueError(f"--{flag}={target} is a file, expected a folder: choose another name.")


def _there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _own_names(lock: Path) -> set[str] | None:
    """The names memjax wrote; None, for all of them, in a run's folder of version 0.1.

    Raises:
        ValueError: The lock is another program's.
    """
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except UnicodeDecodeError:
        lines = [""]
    if not lines:  # of 0.1, which locked runs; else of a process that was killed at its start
        return None if (lock.parent / RUN_FILE).is_file() else set()
    if lines[0] != _HEAD:
        raise ValueError(f"{lock} is another program's: choose another place to write to.")
    return set(lines[1:])


def _add_names(lock: Path, names: Iterable[str]) -> None:
    if text := "".join(f"{name}\n" for name in names):
        with naming(lock), open(lock, "a", encoding="utf-8") as file:
            file.write(text)


def _refuse_inputs(
    outputs: Iterable[Path], own: set[str] | None, reads: Iterable[str], flag: str
) -> None:
    inputs = [Path(name).resolve() for name in reads if name]
    resolved = functools.cache(Path.resolve)
    for path in outputs:
        place = path.resolve() if path.is_symlink() else resolved(path.parent) / path.name
        mine = own is None or path.name in own
        for read in inputs:
            inside = read in place.parents and path.exists() and not mine
            if place == read or inside:
                raise ValueError(
                    f"{path} is also read by this command: choose another --{flag}, so that it is "
                    "not replaced."
                )


@contextlib.contextmanager
def _locked(lock: Path, folder: Path, target: Path) -> Iterator[None]:
    """Holds the lock's file; takes it away at the end if nothing it lists was written."""
    file = _acquired(lock, target)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            own = _own_names(lock)
            if own is not None and not any(_there(folder / name) for name in own):
                lock.unlink()
        os.close(file)


def _acquired(lock: Path, target: Path) -> int:
    """Returns the open, locked file; one that its last holder took away meanwhile is left."""
    while True:
        new = not lock.exists()
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(file, target)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(lock)):
                    if not os.fstat(file).st_size and (new or _own_names(lock) is not None):
                        _begin(file, lock)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _begin(file: int, lock: Path) -> None:
    """Writes the lock's first line; an empty one would say that all of a run's folder is ours."""
    try:
        with naming(lock):
            os.write(file, f"{_HEAD}\n".encode())
    except OSError:
        lock.unlink(missing_ok=True)
        raise


def _flock(file: int, target: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise ValueError(
                f"{target} is in use by another run: wait for it, or choose another place."
            ) from error
        logger.warning(
            "the file system of %s has no locks (%s): see to it that no second command writes "
            "there.", target, error.strerror,
        )  # fmt: skip


def _remove_empty(places: Iterable[Path]) -> None:
    for place in places:
        with contextlib.suppress(OSError):
            place.rmdir()

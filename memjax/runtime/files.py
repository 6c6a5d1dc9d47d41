"""Whole files or none (write to a temporary name, then rename), and one run per workdir."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = ".lock"


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes ``data`` so that ``path`` never holds half of it; makes the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def workdir_lock(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a workdir; the system lets go of it even if the process is killed.

    Raises:
        ValueError: If another process holds it.

    .. note:: Where the platform has no ``flock`` nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with open(Path(workdir) / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{workdir} is in use by another run: wait for it, or choose another workdir."
            ) from error
        yield

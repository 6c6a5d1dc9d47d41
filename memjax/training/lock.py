"""One run per workdir."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FILE = ".lock"


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
    with open(Path(workdir) / FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{workdir} is in use by another run: wait for it, or choose another workdir."
            ) from error
        yield

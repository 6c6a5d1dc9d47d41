"""Whole files or none (write to a temporary name, then rename), and one run per workdir."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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


def write_all(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that appear together: all under other names first, then renamed in order."""
    stage = Path(tempfile.mkdtemp(prefix=".report.", dir=out))
    try:
        for name, data in files.items():
            path = stage / name
            path.parent.mkdir(exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            (out / name).parent.mkdir(exist_ok=True)
            (stage / name).replace(out / name)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(stage)

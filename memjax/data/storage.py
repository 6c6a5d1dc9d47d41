"""Files on disk and in buckets behind one door: plain paths, and URLs through etils.epath.

A root such as ``gs://bucket/CheXpert-v1.0-small`` is never handed to ``open``, ``os`` or
``pathlib``; what is read from it goes through :func:`memjax.data.images.open_binary`.
"""

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from memjax.data.images import open_binary

_EXTRAS = {"gs": "gcs"}


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a bucket (``gs://…``) and not a local file."""
    return "://" in os.fspath(path)


def root_text(root: str | os.PathLike[str]) -> str:
    """The root as text without a closing slash."""
    return os.fspath(root).rstrip("/")


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns a missing library for a bucket into one sentence.

    Raises:
        ValueError: The library that reads this kind of URL is not installed, or there is none.
    """
    try:
        yield
    except ImportError as error:
        scheme = path.partition("://")[0]
        extra = _EXTRAS.get(scheme)
        way = f"pip install '.[{extra}]'" if extra else f"install what fsspec needs for {scheme}://"
        raise ValueError(
            f"{path} lies in a bucket and the library that reads {scheme}:// is not installed: "
            f"{way}, or copy the data to a local folder."
        ) from error
    except (KeyError, NotImplementedError) as error:
        if not is_url(path):
            raise
        raise ValueError(
            f"{path} has an address that cannot be read; expected a local folder or gs://BUCKET/…"
        ) from error


def read_bytes(path: str) -> bytes:
    """The whole file.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: Its kind of address cannot be read here.
    """
    with explained(path), open_binary(path) as file:
        return file.read()


def exists(path: str) -> bool:
    """Whether a file is there."""
    if not is_url(path):
        return os.path.isfile(path)
    with explained(path):
        return epath.Path(path).exists()


def list_folder(path: str) -> list[str]:
    """Names in a folder, sorted; empty where there is no such folder."""
    if not is_url(path):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    with explained(path):
        folder = epath.Path(path)
        return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []

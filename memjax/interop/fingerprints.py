"""``memjax.json``: the sha256 of each weights file, so that a flipped bit does not pass unseen."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memjax.interop.json_files import read_json

FILE = "memjax.json"
_CHUNK = 2**20


def sha256(path: Path) -> str:
    """Returns the digest of a file, read a megabyte at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def verify(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Compares weights files with ``memjax.json``, where it is there and lists them.

    Returns:
        The digests that were verified, by path in the folder; empty without a ``memjax.json``.

    Raises:
        ValueError: A file is not the one that was written.
    """
    if not (folder / FILE).is_file():
        return {}
    known = read_json(folder / FILE).get("sha256")
    known = known if isinstance(known, dict) else {}
    found = {}
    for file in files:
        name = file.relative_to(folder).as_posix()
        if name in known:
            found[name] = sha256(file)
            if found[name] != known[name]:
                raise ValueError(
                    f"The file {file} is not the one that {FILE} beside it describes (sha256 "
                    f"{found[name][:12]}…, expected {str(known[name])[:12]!s}…): it was damaged, "
                    f"fetch it again; or delete {folder / FILE} if it was changed on purpose."
                )
    return found


def source(folder: Path) -> Any:
    """Returns what the model was called that a folder was converted from; None if unknown."""
    found = read_json(folder / FILE).get("source") if (folder / FILE).is_file() else None
    return found.get("model") if isinstance(found, dict) else None


def description(digests: dict[str, str], source: dict[str, Any]) -> dict[str, Any]:
    """Returns the contents of ``memjax.json``."""
    return {"format": 1, "sha256": digests, "source": source}

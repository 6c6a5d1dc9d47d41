"""Checksums of a checkpoint: what is not sealed, or does not match its seal, is not trusted.

A flipped bit in an array file restores silently with a wrong value, so every file of a checkpoint
is listed with its SHA-256 once the checkpoint is complete.
"""

import hashlib
import json
from pathlib import Path

from memjax.runtime.files import write_bytes

MANIFEST = "memjax_manifest.json"


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def seal(folder: Path) -> None:
    """Writes the manifest of a complete checkpoint folder."""
    files = {
        p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _checksum(p)}
        for p in _files(folder)
    }
    text = json.dumps({"files": files}, indent=1, sort_keys=True)
    write_bytes(folder / MANIFEST, text.encode())


def is_sealed(folder: Path) -> bool:
    """Returns whether the checkpoint was completed; says nothing about its content."""
    return (folder / MANIFEST).is_file()


def fault(folder: Path) -> str | None:
    """Returns why a checkpoint folder cannot be trusted, or None if every file is as sealed."""
    if not any(folder.iterdir()):
        return "the folder is empty"
    if not is_sealed(folder):
        return "it has no manifest, so the save was cut short"
    try:
        listed = json.loads((folder / MANIFEST).read_text())["files"]
        for name, entry in sorted(listed.items()):
            if reason := _file_fault(folder / name, name, entry["bytes"], entry["sha256"]):
                return reason
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return None if listed else "its manifest lists no file"


def _file_fault(path: Path, name: str, size: int, checksum: str) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes, expected {size}"
    if _checksum(path) != checksum:
        return f"{name} does not match its checksum"
    return None

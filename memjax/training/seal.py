"""The seal of a checkpoint: its step, its configuration and every byte, by checksum.

A flipped bit in an array file restores silently with a wrong value, and a folder can be renamed.
So a manifest, written last, lists every file with its SHA-256, says which step it is of, and
carries a checksum of its own. One of the files is the configuration.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memjax.runtime.files import write_bytes
from memjax.runtime.json import dumps, loads

MANIFEST = "memjax_manifest.json"
CONFIG = Path("config") / "metadata"
# Fields of later versions, and what a checkpoint that lacks them was made with.
LATER: dict[tuple[str, str], Any] = {
    ("train", "filter_detector"): "noise_magnitude",
    ("model", "refine_channels"): 0,
    ("data", "augment"): {"rotate": 0.0, "shift": 0.0, "zoom": 0.0, "flip": False},
    ("data", "labels"): "",
}
LABELS = "label_space"
_RENAMED, _UNREADABLE = "so its folder was renamed", "no permission or a fault of the disk"


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _digest(manifest: Mapping[str, Any]) -> str:
    text = dumps({name: manifest[name] for name in ("step", "files")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(folder: Path) -> None:
    """Writes the manifest of a complete checkpoint folder; its name is the step."""
    files = {
        p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _checksum(p)}
        for p in _files(folder)
    }
    manifest = {"step": int(folder.name), "files": files}
    text = dumps({**manifest, "sha256": _digest(manifest)}, indent=1, sort_keys=True)
    write_bytes(folder / MANIFEST, text.encode())


def is_sealed(folder: Path) -> bool:
    """Returns whether the checkpoint was completed; says nothing about its content."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns a manifest: ``files``, and ``step`` where it is not of an early version.

    Raises:
        ValueError: It is damaged.
    """
    found = loads((folder / MANIFEST).read_bytes())
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError("no manifest")
    if "step" in found and found.get("sha256") != _digest(found):
        raise ValueError("another checksum")
    return found


def fault(folder: Path) -> str | None:
    """Returns why a checkpoint folder cannot be trusted, or None if all is as sealed."""
    try:
        return _fault(folder)
    except OSError as error:
        name = os.path.relpath(error.filename, folder) if error.filename else "a file"
        name = "its folder" if name == "." else name
        return f"{name} cannot be read ({error.strerror or error}: {_UNREADABLE})"


def can_be_mended(reason: str) -> bool:
    """Returns whether what :func:`fault` said leaves the checkpoint whole: renamed, unreadable."""
    return _RENAMED in reason or _UNREADABLE in reason


def _fault(folder: Path) -> str | None:
    if not any(folder.iterdir()):
        return "the folder is empty"
    if not is_sealed(folder):
        return "it has no manifest, so the save was cut short"
    try:
        manifest = read_manifest(folder)
        for name, entry in sorted(manifest["files"].items()):
            if reason := file_fault(folder / name, name, entry["bytes"], entry["sha256"]):
                return reason
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    if not manifest["files"]:
        return "its manifest lists no file"
    if str(manifest.get("step", folder.name)) != folder.name:
        return f"it is the checkpoint of step {manifest['step']}, {_RENAMED}"
    return None


def file_fault(path: Path, name: str, size: int, checksum: str) -> str | None:
    """Returns how a file differs from what was sealed, or None."""
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes, expected {size}"
    if _checksum(path) != checksum:
        return f"{name} does not match its checksum"
    return None


def as_of_now(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved configuration with what its version did not seal, to be compared.

    Args:
        old: As saved: fields of later versions are missing in it, and so may the labels be.
        new: What it is compared with; its labels stand in where none were saved.
    """
    out = dict(old)
    for (section, field), value in LATER.items():
        if section in out:
            out[section] = {field: value, **out[section]}
    if LABELS not in out and LABELS in new:
        out[LABELS] = new[LABELS]
    return out


def config_changes(
    old: Mapping[str, Any], new: Mapping[str, Any], form: str = "{name}: {old} -> {new}"
) -> list[str]:
    """Returns one text per entry that differs, nested names dotted.

    Args:
        old: One configuration.
        new: Another.
        form: How an entry is written, with ``name``, ``old`` and ``new``.
    """
    before, now = dict(_flat(old)), dict(_flat(new))
    texts = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now or before[name] != now[name]:
            said = {"old": _said(name, before, now), "new": _said(name, now, before)}
            texts.append(form.format(name=name, **said))
    return texts


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All entries by dotted name; lists of plain values stay whole."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(v, list | tuple | dict) for v in value):
        items = enumerate(value)
    if not items and name:
        yield name, value
    for key, item in items:
        yield from _flat(item, f"{name}.{key}" if name else str(key))


def _said(name: str, values: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """A value as text; of a long list the first entry that differs."""
    if name not in values:
        return repr("absent")
    text, other = repr(values[name]), others.get(name)
    if len(text) <= 120 or not isinstance(values[name], list) or not isinstance(other, list):
        return text if len(text) <= 120 else f"{text[:117]}..."
    pairs = enumerate(zip(values[name], other, strict=False))
    place = next((i for i, (mine, theirs) in pairs if mine != theirs), None)
    own = f", number {place} is {values[name][place]!r}" if place is not None else ""
    return f"{len(values[name])} values{own}"

"""What a file is that should hold weights or settings and does not, told from its first bytes."""

import json
from pathlib import Path

_HEAD = 1024
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_FETCH = (
    "fetch the file itself with `hf download OWNER/MODEL` or, in a clone, with `git lfs install` "
    "and `git lfs pull`"
)
PICKLED = (
    "a pickled PyTorch file (.ckpt, .pt, .bin), which can run any program, so it was not opened; "
    "fetch the safetensors files of the model"
)
_STARTS = (
    (b"GGUF", "a GGUF file of quantized weights; fetch the safetensors files of the model"),
    (b"\x80\x02", PICKLED),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x89HDF", "an HDF5 file of Keras; fetch the safetensors files of the model"),
    (b"\x1f\x8b", "an archive (gzip); unpack it"),
    (b"7z\xbc\xaf", "an archive (7z); unpack it"),
    (b"Rar!", "an archive (rar); unpack it"),
)
_ONNX = "an ONNX graph; fetch the safetensors files of the model, from which it was made"
_SUFFIXES = {
    ".onnx": _ONNX,
    ".gguf": _STARTS[0][1],
    ".msgpack": "Flax's weights; fetch the safetensors files of the model",
    ".h5": _STARTS[3][1],
    **dict.fromkeys(
        (".part", ".crdownload", ".aria2", ".incomplete", ".download", ".tmp"),
        "a download that has not ended; wait for it, or fetch the file again",
    ),
}


def kind_of_name(name: str) -> str | None:
    """Returns what a file is by its name, and the way out, to follow "is"; None if unknown."""
    if name.startswith("openvino_"):
        return "a graph of OpenVINO; fetch the safetensors files of the model"
    return _SUFFIXES.get(Path(name).suffix.lower())


def other_kind(path: Path) -> str | None:
    """Returns what a weights file is instead, and the way out, to follow "is"; None if unknown.

    Git LFS pointers, web pages and messages of a server are told as well as weights in other
    formats, ends of downloads that are missing and downloads that still go on.
    """
    kind = kind_of_name(path.name)
    if kind is not None:
        return kind
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    size = path.stat().st_size
    if not head.strip(b"\0"):
        what = "it begins with zeros, its download did not end" if head else "it is empty"
        return f"damaged: {what}; fetch it again and see that the disk has room"
    if head.startswith(b"PK") and b"data.pkl" in head:
        return PICKLED
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head[:1] == b"\x08" and (b"onnx" in head.lower() or b"pytorch" in head[:64]):
        return _ONNX
    return stand_in(head) or _message(head, size, path.suffix) or _cut_off(head, size, path)


def stand_in(head: bytes) -> str | None:
    """Tells from a file's first bytes a Git LFS pointer and a web page, to follow "is"."""
    if head.startswith(_POINTER):
        return f"a pointer of Git LFS, not the file that it stands for; {_FETCH}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return (
            "a web page: the address asked for a login or shows the file instead of sending it; "
            f"{_FETCH}, logged in where it asks for it"
        )
    return None


def _message(head: bytes, size: int, suffix: str) -> str | None:
    text = " ".join(head.decode("utf-8", "replace").split())
    if suffix != ".safetensors" or size >= _HEAD or not text.isprintable() or "\ufffd" in text:
        return None
    return f"the text {text[:120]!r}, perhaps of a server that refused it; {_FETCH}"


def _cut_off(head: bytes, size: int, path: Path) -> str | None:
    """Tells safetensors files of which the end is missing."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > 100_000_000:
        return None
    needed = 8 + length
    if needed <= size:
        with open(path, "rb") as file:
            file.seek(8)
            try:
                listed = json.loads(file.read(length))
                ends = [v["data_offsets"][1] for k, v in listed.items() if k != "__metadata__"]
                needed += max(ends, default=0)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
                return None
    if type(needed) is not int or needed <= size:
        return None
    return (
        f"damaged: it is cut off, with {size:,} bytes of {needed:,}; fetch it again and see that "
        "the disk has room"
    )

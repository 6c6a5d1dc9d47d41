"""PyTorch weights files read without torch: zip archives, TorchScript and the older plain format.

Only tensors come out. Nothing the file names is imported or called (:mod:`pickle_data`), nothing is
written to disk, and every size, stride and offset is checked against the bytes that are there
before an array is made.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

import numpy as np
from etils import epath

from memjax.interop.file_kinds import stand_in
from memjax.interop.torch.pickle_data import RefusedError, read_pickle
from memjax.interop.torch.tensors import Storage, StridedTensor, arrays, named_tensors, torch_rules

MAX_PICKLE_BYTES = 64 * 2**20
MAX_MEMBERS = 200_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGE = (
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
)
Load = Callable[[Storage], np.ndarray]


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the named tensors of a ``torch.save`` or ``torch.jit.save`` file.

    A state dict gives its keys; a whole module (TorchScript, or a pickled ``nn.Module``) gives the
    keys its ``state_dict()`` would have, and buffers that it would leave out.

    Args:
        path: The file, local or on ``gs://``.

    Raises:
        ValueError: The file is missing, damaged, holds no weights, or asks for anything but
            tensors and layers; one sentence says which.
    """
    file_path = epath.Path(path)
    if not file_path.is_file():
        raise ValueError(f"There is no weights file {os.fspath(path)}; give the path of one.")
    with cast(BinaryIO, file_path.open("rb")) as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            tensors, load = (_read_zip if is_zip else _read_legacy)(file)
            return arrays(tensors, load)
        except _DAMAGE as error:
            file.seek(0)
            kind = stand_in(file.read(1024))
            said = f"The file {os.fspath(path)} is {kind}." if kind else _sentence(path, error)
            raise ValueError(said) from error


def _sentence(path: str | os.PathLike[str], error: Exception) -> str:
    reason = str(error) if isinstance(error, RefusedError) else f"is damaged ({error})"
    reason = printable(reason[:400])
    return (
        f"The file {os.fspath(path)} {reason}; expected the weights of a network: fetch it again, "
        "or open it where you trust it and save its state_dict() with safetensors."
    )


def printable(text: str) -> str:
    """Returns text from a file as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _read_zip(file: BinaryIO) -> tuple[dict[str, StridedTensor], Load]:
    archive = zipfile.ZipFile(file)
    names = set(archive.namelist())
    _check_members(archive, file.seek(0, os.SEEK_END))
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError("is a zip archive without one folder that holds a data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    pickled = io.BytesIO(archive.read(pickles[0]))
    tensors = named_tensors(read_pickle(pickled, torch_rules({})))

    def load(storage: Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        if name not in names:
            raise RefusedError(f"has no member {name!r} for one of its tensors")
        declared = archive.getinfo(name).file_size
        if declared != storage.num_bytes:
            raise RefusedError(_mismatch(storage, declared))
        array = np.frombuffer(archive.read(name), storage.dtype)
        return array.byteswap() if order == b"big" else array

    return tensors, load


def _mismatch(storage: Storage, found: int) -> str:
    return (
        f"describes its storage {storage.key!r} as {storage.num_bytes} bytes and holds {found} "
        "bytes for it"
    )


def _check_members(archive: zipfile.ZipFile, file_size: int) -> None:
    """Refuses names that point elsewhere and sizes that the file cannot hold."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or len({info.filename for info in members}) != len(members):
        raise RefusedError(f"has {len(members)} members, too many or two of one name")
    for info in members:
        name = info.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise RefusedError(f"has a member {name!r} that points out of the archive")
        if name.endswith("/data.pkl") or name.endswith("/byteorder"):
            if info.file_size > MAX_PICKLE_BYTES:
                raise RefusedError(f"declares {info.file_size} bytes for {name!r}")
        elif "/data/" in name and info.compress_type != zipfile.ZIP_STORED:
            raise RefusedError(f"holds the tensor {name!r} compressed, as torch never writes it")
    stored = sum(info.file_size for info in members if info.compress_type == zipfile.ZIP_STORED)
    if stored > file_size:
        raise RefusedError(f"declares {stored} bytes of tensors in {file_size} bytes of file")


def _read_legacy(file: BinaryIO) -> tuple[dict[str, StridedTensor], Load]:
    """Reads pickles one after the other (mark, version, system, weights, keys), then storages."""
    if file.read(1) != b"\x80":
        raise RefusedError("is neither a torch archive nor a torch pickle")
    file.seek(0)
    storages: dict[str, Storage] = {}
    rules = torch_rules(storages)
    if read_pickle(file, rules) != _LEGACY_MAGIC:
        raise RefusedError("is a pickle, but not one that torch.save wrote")
    _, system = read_pickle(file, rules), read_pickle(file, rules)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise RefusedError("was not written on a little-endian machine")
    tensors = named_tensors(read_pickle(file, rules))
    places = _storage_places(file, read_pickle(file, rules), storages)

    def load(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise RefusedError(f"lacks the storage {storage.key!r} of one of its tensors")
        file.seek(places[storage.key])
        return np.frombuffer(file.read(storage.num_bytes), storage.dtype)

    return tensors, load


def _storage_places(file: BinaryIO, keys: Any, storages: Mapping[str, Storage]) -> dict[str, int]:
    """Returns where each storage's numbers begin, each preceded by their count."""
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise RefusedError("has no list of the storages it refers to")
    places: dict[str, int] = {}
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    for key in keys:
        storage = storages[key]
        file.seek(start)
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise RefusedError(_mismatch(storage, count * storage.dtype.itemsize))
        places[key] = start + 8
        start += 8 + storage.num_bytes
        if start > end:
            raise RefusedError(f"is cut off in its storage {key!r}")
    return places

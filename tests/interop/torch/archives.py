"""Torch archives written byte by byte: the pickle operations, the zip and the older format."""

import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

OLD_MARK = 0x1950A86A20F9469CFC6C


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(*values: int) -> bytes:
    return many(*map(integer, values))


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + b"R"


def built(kind: bytes, state: bytes) -> bytes:
    return kind + b")\x81" + state + b"b"


def storage(size: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return many(text("storage"), name("torch", kind), text(key), text("cpu"), integer(size)) + b"Q"


def tensor(where: bytes, offset: int, shape: bytes, strides: bytes) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return called(rebuild, where, integer(offset), shape, strides, b"\x89", hooks)


def vector(size: int, key: str = "0") -> bytes:
    return tensor(storage(size, key), 0, integers(size), integers(1))


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def numbers(count: int) -> bytes:
    return np.arange(count, dtype="<f4").tobytes()


def write_zip(
    path: pathlib.Path,
    value: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    others: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> pathlib.Path:
    """Writes an archive whose pickle is ``value``; one storage of six numbers unless told."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        for key, data in ({"0": numbers(6)} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data)
        for member, data in (others or {}).items():
            archive.writestr(member, data)
    return path


def write_old(
    path: pathlib.Path, value: bytes, storages: Mapping[str, bytes], mark: int = OLD_MARK
) -> pathlib.Path:
    """Writes the format before zip: pickles in a row, then counted float32 storages."""
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    heads = [integer(mark), integer(1001), mapping({"little_endian": b"\x88"}), value, keys]
    runs = [struct.pack("<q", len(data) // 4) + data for data in storages.values()]
    path.write_bytes(b"".join(map(pickled, heads)) + b"".join(runs))
    return path


def assert_one_sentence(error: ValueError, path: pathlib.Path) -> None:
    message = str(error)
    assert message.endswith(".")
    assert "\n" not in message
    assert message.count(str(path)) == 1
    assert ". " not in message

"""Files that are cut, changed or no torch archive at all are refused in one sentence."""

import os
import pathlib
import struct
import zipfile

import pytest

from memjax.interop.torch import archive as torch_archive
from memjax.interop.torch.archive import read_torch
from tests.interop.torch.archives import (
    assert_one_sentence,
    called,
    mapping,
    name,
    numbers,
    text,
    vector,
    write_old,
    write_zip,
)

ONE = {"w": vector(6)}
TOUCH = text("touch executed")


def declares_more(path: pathlib.Path) -> None:
    """Changes the sizes that the directory at the end states for the storage."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(bytes(data))


def flips_a_bit(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(numbers(6)) + 9] ^= 4
    path.write_bytes(bytes(data))


def cut_at(size: int):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def member(other: str):
    return lambda path: write_zip(path, mapping(ONE), others={other: b"x"})


def squeezed(path: pathlib.Path) -> None:
    write_zip(path, mapping(ONE), {"0": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED)


def lies_about_its_pickle(path: pathlib.Path) -> None:
    """A pickle of megabytes, compressed, whose size is stated as 40 bytes in both places."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**24))
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(mark)
        data[place + offset : place + offset + 4] = struct.pack("<I", 40)
    path.write_bytes(bytes(data))


def one_storage_as_many(path: pathlib.Path) -> None:
    """Many entries of the directory point at the same bytes."""
    write_zip(path, mapping(ONE), {f"{k:03d}": numbers(250) for k in range(2)})
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    end = data.index(b"PK\x01\x02", entry + 1)
    copies = [data[entry:end].replace(b"data/000", b"data/%03d" % (k + 2)) for k in range(90)]
    directory = data[:entry] + b"".join(copies) + data[entry:]
    tail = bytearray(directory)
    place = tail.index(b"PK\x05\x06")
    count = struct.unpack("<H", tail[place + 8 : place + 10])[0] + 90
    size = struct.unpack("<I", tail[place + 12 : place + 16])[0] + 90 * (end - entry)
    tail[place + 8 : place + 16] = struct.pack("<HHI", count, count, size)
    path.write_bytes(bytes(tail))


def is_locked(path: pathlib.Path) -> None:
    """Every member is marked as encrypted."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            data[place + offset] |= 1
    path.write_bytes(bytes(data))


def crowded(path: pathlib.Path) -> None:
    write_zip(path, mapping(ONE), others={f"archive/extra/{k}": b"" for k in range(60)})


DAMAGED = {
    "is empty": (cut_at(0), "neither a torch archive"),
    "is cut": (cut_at(300), "damaged"),
    "is no archive": (lambda path: path.write_text("<html>404</html>"), "is a web page"),
    "declares gigabytes": (declares_more, "declares 2147483.* bytes of tensors"),
    "has a flipped bit": (flips_a_bit, "CRC"),
    "is a zip bomb": (squeezed, "compressed"),
    "climbs": (member("archive/../../x"), "points out of the archive"),
    "is absolute": (member("/etc/x"), "points out of the archive"),
    "climbs with backslashes": (member("..\\x"), "points out of the archive"),
    "lies about its pickle": (lies_about_its_pickle, "damaged"),
    "repeats one storage": (one_storage_as_many, "declares .* bytes of tensors in"),
    "is encrypted": (is_locked, "encrypted"),
    "has a huge byte order": (
        lambda path: write_zip(path, mapping(ONE), others={"archive/byteorder": bytes(9000)}),
        "declares 9000 bytes for 'archive/byteorder'",
    ),
    "is crowded": (crowded, "members, too many"),
    "has two pickles": (member("other/data.pkl"), "one folder"),
    "is another zip": (
        lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "x"),
        "one folder",
    ),
    "has a huge pickle": (
        lambda path: write_zip(path, mapping(ONE | {"x": text(9000 * "a")})),
        "declares 9.* bytes for 'archive/data.pkl'",
    ),
    "is another pickle": (lambda path: write_old(path, mapping(ONE), {}, 7), "not one that torch"),
    "old, overstates": (
        lambda path: write_old(path, mapping(ONE), {"0": numbers(7)}),
        "24 bytes and holds 28",
    ),
    "old, lists another": (lambda path: write_old(path, mapping(ONE), {"9": b""}), "no list"),
    "old, lists none": (lambda path: write_old(path, mapping(ONE), {}), "lacks the storage '0'"),
    "old, calls": (
        lambda path: write_old(path, called(name("os", "system"), TOUCH), {}),
        r"names os\.system",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, monkeypatch, case):
    monkeypatch.setattr(torch_archive, "MAX_PICKLE_BYTES", 8000)
    monkeypatch.setattr(torch_archive, "MAX_MEMBERS", 50 if case == "is crowded" else 200)
    path = write_zip(tmp_path / "w.pt", mapping(ONE))
    damage, message = DAMAGED[case]
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_torch(path)
    assert_one_sentence(caught.value, path)
    assert os.listdir(tmp_path) == ["w.pt"]


def test_an_old_file_cut_in_a_storage(tmp_path):
    path = write_old(tmp_path / "w.pt", mapping(ONE), {"0": numbers(6)})
    cut_at(len(path.read_bytes()) - 2)(path)
    with pytest.raises(ValueError, match="cut off in its storage '0'"):
        read_torch(path)


def test_every_cut_of_a_good_file_is_refused_or_read_whole(tmp_path):
    for write in (write_zip, write_old):
        whole = write(tmp_path / "w.pt", mapping(ONE), {"0": numbers(6)}).read_bytes()
        for size in range(0, len(whole), 7):
            (tmp_path / "cut.pt").write_bytes(whole[:size])
            with pytest.raises(ValueError, match="The file"):
                read_torch(tmp_path / "cut.pt")

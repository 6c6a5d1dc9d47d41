"""Roots in a bucket: every byte goes through etils.epath, none through open or os."""

import builtins
import io
import os
import posixpath

import pytest
from etils.epath import backend, gpath

from memjax.data import storage
from memjax.data.dataset import load_images
from memjax.data.readers.chexpert import check_images, read_chexpert
from memjax.data.readers.mimic import read_mimic
from memjax.data.readers.nih import read_nih
from tests.data.readers.chest_folders import write_chexpert, write_mimic, write_nih

BUCKET = "gs://hospital/films"


class Bucket(backend.fsspec_backend.__class__):
    """A bucket in memory that counts what is opened."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.opened = files, []

    def open(self, path, mode):
        assert mode == "rb"
        self.opened.append(path)
        if path not in self.files:
            raise FileNotFoundError(2, "no such object", path)
        return io.BytesIO(self.files[path])

    def exists(self, path):
        return path in self.files or self.isdir(path)

    def isdir(self, path):
        return any(name.startswith(path.rstrip("/") + "/") for name in self.files)

    def listdir(self, path):
        start = path.rstrip("/") + "/"
        return sorted({n[len(start) :].split("/")[0] for n in self.files if n.startswith(start)})


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """Puts a folder into the bucket and forbids every other way to its files."""

    def put(root):
        files = {
            posixpath.join(BUCKET, path.relative_to(root).as_posix()): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        bucket = Bucket(files)
        monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
        for module, name in ((builtins, "open"), (os, "stat"), (os, "listdir"), (os, "scandir")):
            monkeypatch.setattr(module, name, _guarded(getattr(module, name)))
        return bucket

    return put


def _guarded(plain):
    def call(path, *args, **options):
        assert "hospital" not in str(path), f"{plain.__name__} was called on {path}"
        return plain(path, *args, **options)

    return call


READERS = {
    "chexpert": (read_chexpert, write_chexpert, 2),
    "nih": (lambda root: read_nih(root, "all"), write_nih, 5),
    "mimic": (lambda root: read_mimic(root, "all"), write_mimic, 3),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_and_images_of_a_bucket(upload, tmp_path, name):
    read, write, num = READERS[name]
    bucket = upload(write(tmp_path))
    records, problems = read(BUCKET + "/")
    assert len(records) == num
    assert not problems
    assert all(record.path.startswith(BUCKET + "/") for record in records)
    assert check_images(records)[0] == records
    assert load_images(records, size=8).shape == (num, 8, 8, 1)
    assert {record.path for record in records} <= set(bucket.opened)


@pytest.mark.parametrize("name", READERS)
def test_an_image_missing_in_the_bucket_is_counted(upload, tmp_path, name):
    read, write, num = READERS[name]
    bucket = upload(write(tmp_path))
    gone = read(BUCKET)[0][0].path
    del bucket.files[gone]
    records, problems = read(BUCKET)
    assert problems.counts == {"missing file": 1}
    assert len(records) == num - 1


def test_an_empty_bucket_is_named(upload, tmp_path):
    upload(tmp_path)
    with pytest.raises(ValueError, match=r"gs://hospital/films/train\.csv cannot be read"):
        read_chexpert(BUCKET)


@pytest.mark.parametrize("name", READERS)
def test_without_gcsfs_one_sentence_says_how_to_get_it(monkeypatch, name):
    class Lacking(Bucket):
        def _raise(self, *_):
            raise ImportError("Please install gcsfs to access Google Storage")

        open = exists = isdir = listdir = _raise

    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Lacking({}))
    with pytest.raises(ValueError, match=r"gs://.*pip install '\.\[gcs\]'") as caught:
        READERS[name][0](BUCKET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["ftp://host/data", "memory://data"])
def test_an_address_nobody_reads_is_named(root):
    with pytest.raises(ValueError, match=r"expected a local folder or gs://"):
        read_chexpert(root)


def test_local_folders(tmp_path):
    assert storage.list_folder(str(tmp_path / "nowhere")) == []
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("x")
    assert storage.list_folder(str(tmp_path)) == ["a.txt", "b"]
    assert storage.exists(str(tmp_path / "a.txt"))
    assert not storage.exists(str(tmp_path / "b"))

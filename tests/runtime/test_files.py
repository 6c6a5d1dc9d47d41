"""Files are whole or as they were, also when the disk is full."""

import errno
import os
import resource
import signal
import threading

import pytest

from memjax.runtime.files import replace_folder, said_of, write_all, write_bytes


@pytest.fixture
def _small_disk():
    """Files of this process end at 1,000 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("_small_disk")
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    file = write_bytes(tmp_path / "rows.jsonl", b"old")
    for write in (
        lambda: write_bytes(file, b"new" * 1000),
        lambda: write_all(tmp_path, {"page.html": b"new", "rows.jsonl": b"new" * 1000}),
    ):
        with pytest.raises(OSError, match="File too large") as caught:
            write()
        said = said_of(caught.value)
        assert str(file) in said
        assert "free space" in said
        assert said.count(". ") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert file.read_bytes() == b"old"


def test_other_errors_keep_their_words(tmp_path):
    with pytest.raises(OSError, match="name too long") as caught:
        write_bytes(tmp_path / "no" / ("x" * 300), b"")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert "xxx" in said_of(caught.value)


def test_there_is_a_folder_at_every_moment_of_replacing(tmp_path):
    target, missed, done = tmp_path / "m", [], threading.Event()
    target.mkdir()

    def watch():
        while not done.is_set():
            try:
                os.listdir(target)
            except FileNotFoundError:
                missed.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        new = tmp_path / f"new{number}"
        new.mkdir()
        (new / str(number)).touch()
        replace_folder(new, target)
    done.set()
    watcher.join()
    assert not missed
    assert os.listdir(tmp_path) == ["m"]
    assert os.listdir(target) == ["199"]

"""One holder at a time, who knows memjax's files from a user's and takes away what kills left."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from memjax.runtime.locks import hold
from tests.commands import held_elsewhere


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def refused(match, *arguments, **options):
    with pytest.raises(ValueError, match=match), hold(*arguments, **options):
        raise AssertionError("never inside")


def test_a_second_holder_is_refused_and_touches_nothing(tmp_path):
    out = tmp_path / "out"
    with held_elsewhere_of(out):
        (out / "part").write_text("first")
        before = sorted(p.name for p in out.iterdir())
        for _ in range(2):
            refused("in use by another run", out, ["part"], force=True)
        assert sorted(p.name for p in out.iterdir()) == before
    with hold(out, ["part"], force=True):
        pass


@contextlib.contextmanager
def held_elsewhere_of(out):
    out.mkdir()
    with held_elsewhere(out / ".lock"):
        yield


def test_who_holds_it_may_enter_again_and_another_thread_may_not(tmp_path):
    said = []

    def other():
        try:
            with hold(tmp_path):
                said.append("inside")
        except ValueError as error:
            said.append(str(error))

    with hold(tmp_path, ["a"]):
        with hold(tmp_path, ["b"]):
            (tmp_path / "b").write_text("")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1
    assert "in use by another run" in said[0]
    with hold(tmp_path, ["a", "b"]):
        pass


def test_a_lock_taken_away_while_another_opens_it_is_not_believed(tmp_path, monkeypatch):
    """Its inode is no longer the one at the path: a third would get a lock of its own."""
    real, calls = fcntl.flock, []

    def flock(file, how):
        real(file, how)
        if not calls:
            os.unlink(tmp_path / ".lock")
        calls.append(file)

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path):
        monkeypatch.undo()
        with open(tmp_path / ".lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(calls) == 2


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path, ["a"]):
        (tmp_path / "a").write_text("")
    assert "has no locks (No locks available)" in caplog.text


def test_a_users_files_are_not_replaced_and_memjaxs_own_are(tmp_path):
    theirs = tmp_path / "metrics.jsonl"
    theirs.write_text("theirs")
    refused("metrics.jsonl is there and was not written", tmp_path, ["metrics.jsonl"])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    with hold(tmp_path, ["other"]):
        (tmp_path / "other").write_text("ours")
    refused("give --force", tmp_path, ["other", "metrics.jsonl"])
    with hold(tmp_path, ["other"]):
        pass
    with hold(tmp_path, ["metrics.jsonl"], force=True):
        theirs.write_text("ours")
    with hold(tmp_path, ["other", "metrics.jsonl"]):
        pass


def test_a_single_file_is_known_by_the_lock_beside_it(tmp_path):
    file = tmp_path / "s.jsonl"
    with hold(file, ["s.summary.json"], kind="file"), hold(tmp_path / "t.jsonl", kind="file"):
        file.write_text("ours")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".s.jsonl.lock", "s.jsonl"]
    with hold(file, kind="file"):
        pass
    (tmp_path / "run.json").write_text("theirs")
    refused("run.json is there", tmp_path / "run.json", kind="file", flag="out")


def test_a_folder_of_version_0_1_is_memjaxs(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}")
    with hold(tmp_path, ["metrics.jsonl"]):
        pass


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_replaced(tmp_path, force):
    prompts, link = tmp_path / "prompts.jsonl", tmp_path / "link"
    prompts.write_text("theirs")
    link.symlink_to(tmp_path)
    said = "prompts.jsonl is also read by this command"
    for reads in (prompts, link / "prompts.jsonl", tmp_path):
        refused(said, tmp_path, ["prompts.jsonl"], reads=[str(reads), ""], force=force)
    assert prompts.read_text() == "theirs"


def test_nothing_stays_where_nothing_was_written(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "a" / "b", ["c"]):
        raise KeyError
    with hold(tmp_path / "a" / "b", ["c"]):
        pass
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    from memjax.runtime.files import beside

    mine, gone = os.getpid(), dead_process()
    living = beside(tmp_path / "living").name.replace(f".{mine}-", f".{os.getppid()}-")
    left = beside(tmp_path / "left").name.replace(f".{mine}-", f".{gone}-")
    elsewhere = f".elsewhere.{gone}-00000000.tmp"
    stage = left.replace("left", "report")
    kept = [living, elsewhere, ".env", ".a.tmp", ".1.2"]
    (tmp_path / "samples").mkdir()
    for name in (left, f"samples/{left}", *kept):
        (tmp_path / name).write_text("")
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "half").write_text("")
    with hold(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, ".lock", "samples"])
        assert not list((tmp_path / "samples").iterdir())
    day_before = time.time() - 2 * 86_400
    os.utime(tmp_path / elsewhere, (day_before, day_before))
    with hold(tmp_path):
        assert not (tmp_path / elsewhere).exists()


def test_a_clock_that_goes_backwards_removes_nothing_of_another_host(tmp_path):
    later = time.time() + 30 * 86_400
    other = tmp_path / ".x.7-00000000.tmp"
    other.write_text("")
    os.utime(other, (later, later))
    with hold(tmp_path):
        assert other.exists()


def test_what_was_put_aside_by_a_killed_process_is_put_back(tmp_path):
    from memjax.runtime.files import beside

    name = beside(tmp_path / "m", "old").name.replace(f".{os.getpid()}-", f".{dead_process()}-")
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("old")
    with hold(tmp_path / "m", kind="whole"):
        assert (tmp_path / "m" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_dangling_link_and_a_folder_called_lock_are_said(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for kind in ("folder", "file", "whole"):
        refused("link is a link to .*nowhere, which is not there", tmp_path / "link", kind=kind)
    (tmp_path / ".lock").mkdir()
    refused(r"\.lock is a folder of another program", tmp_path)


def test_a_lock_that_says_nothing_gives_no_file_of_a_user_away(tmp_path):
    (tmp_path / "index.html").write_text("theirs")
    (tmp_path / ".lock").touch()
    refused("index.html is there and was not written", tmp_path, ["index.html"])


@pytest.mark.parametrize("text", [b"pid 1234\nindex.html\n", b"pid 1234\n", b"\xff\xfe"])
def test_a_lock_of_another_program_is_left_alone(tmp_path, text):
    (tmp_path / ".lock").write_bytes(text)
    refused("is another program's", tmp_path, ["index.html"], force=True)
    assert (tmp_path / ".lock").read_bytes() == text


def test_hidden_files_of_a_user_stay(tmp_path):
    kept = [".bashrc.1.old", ".notes.2024.tmp", ".report.abcdefgh"]
    long_ago = time.time() - 3 * 86_400
    for name in kept:
        (tmp_path / name).write_text("theirs")
        os.utime(tmp_path / name, (long_ago, long_ago))
    with hold(tmp_path, ["x"]):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    gone = tmp_path / f".model.{dead_process()}.tmp"  # as 0.1 named it, beside what it was for
    gone.write_text("")
    os.utime(gone, (long_ago, long_ago))
    with hold(tmp_path / "model", kind="whole"):
        assert not gone.exists()

"""What happens to the others when one of several processes is stopped, killed, or never came."""

import json
import os
import pathlib
import signal
import time

import pytest

from memjax.runtime.hosts import HEARTBEAT_FOLDER as HEARTBEAT
from memjax.training.checkpoint import FOLDER, newest_good_step
from memjax.training.logging import read_metrics
from tests.commands import PATIENCE
from tests.training.host_processes import finish, free_port, start

pytestmark = pytest.mark.thorough
TOY = pathlib.Path(__file__).parent / "toy_hosts.py"
TOTAL, EVERY = 60, 9


def start_toys(folder, cache, workdir="run", seconds=0.02):
    port, arguments = free_port(), [workdir, TOTAL, EVERY, seconds]
    return {
        f"toy-{i}": start([TOY, port, 2, i, *arguments], folder, f"toy-{i}", cache=cache)
        for i in range(2)
    }


def result_of(text):
    return json.loads(next(line for line in text.splitlines() if line.startswith("{")))


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def logged(folder, step):
    rows = read_metrics(folder / "metrics.jsonl")
    return bool(rows) and rows[-1]["step"] >= step


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """The hash of the final state of two processes that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    codes, said = finish(start_toys(folder, cache, seconds=0.0), folder)
    assert set(codes.values()) == {0}, said
    found = [result_of(text) for text in said.values()]
    assert found[0] == found[1]
    return found[0]["hash"]


@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_to_one_of_two_saves_one_step_in_both(straight, cache, tmp_path, victim):
    toys = start_toys(tmp_path, cache)
    wait_for(lambda: logged(tmp_path / "run", 12))
    toys[f"toy-{victim}"].send_signal(signal.SIGTERM)
    codes, said = finish(toys, tmp_path)
    assert set(codes.values()) == {75}, said
    steps = {result_of(text)["stopped"] for text in said.values()}
    saved, skipped = newest_good_step(tmp_path / "run" / FOLDER)
    assert steps == {saved}
    assert skipped == []
    codes, said = finish(start_toys(tmp_path, cache, seconds=0.0), tmp_path)
    assert set(codes.values()) == {0}, said
    assert [result_of(t) for t in said.values()] == [{"start": saved, "hash": straight}] * 2


def test_sigkill_to_both_changes_no_bit(straight, cache, tmp_path):
    for step in (4, 19, 30):
        toys = start_toys(tmp_path, cache)
        wait_for(lambda step=step: logged(tmp_path / "run", step))
        for process in toys.values():
            process.kill()
        finish(toys, tmp_path)
    codes, said = finish(start_toys(tmp_path, cache, seconds=0.0), tmp_path)
    assert set(codes.values()) == {0}, said
    # The kill at step 30 may come before the save of step 27 is complete.
    assert result_of(said["toy-0"])["start"] in (18, 27)
    assert result_of(said["toy-1"])["hash"] == straight


def start_cli(folder, number, port, *extra, processes=2):
    """One process of a training that would take minutes, as a user starts it."""
    arguments = (
        "-m",
        "memjax",
        "train",
        "--config=phantoms_demo:short",
        "--config.train.steps=100000",
        "--config.train.log_every=5",
        "--workdir=run",
        f"--coordinator=127.0.0.1:{port}",
        f"--num_processes={processes}",
        f"--process_id={number}",
        "--host_timeout=10",
        *extra,
    )
    return start(arguments, folder, f"host-{number}")


def child_of(process):
    """The training itself: the only child of the process that watches over it."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_host_ends_by_itself_and_names_the_one_that_died(tmp_path, victim):
    port = free_port()
    hosts = {f"host-{i}": start_cli(tmp_path, i, port) for i in range(2)}
    beats = [tmp_path / "run" / HEARTBEAT / f"process-{i}.json" for i in range(2)]
    wait_for(lambda: all(b.is_file() for b in beats), 300)
    killed = time.monotonic()
    gone = hosts.pop(f"host-{victim}")
    os.kill(child_of(gone), signal.SIGKILL)
    gone.kill()
    gone.wait()
    codes, said = finish(hosts, tmp_path, seconds=120)
    assert time.monotonic() - killed < 120
    survivor = f"host-{1 - victim}"
    assert codes == {survivor: 75}, said
    sentences = [s for s in said[survivor].splitlines() if s.startswith("memjax: process")]
    assert len(sentences) == 1, said[survivor][-3000:]
    assert sentences[0].startswith(f"memjax: process {victim} (")
    assert "goes on from the last checkpoint" in sentences[0]


@pytest.mark.parametrize(("here", "absent"), [(0, "process 1"), (1, "process 0")])
def test_a_host_that_never_comes_is_named(tmp_path, here, absent):
    began = time.monotonic()
    alone = {f"host-{here}": start_cli(tmp_path, here, free_port(), "--start_timeout=6")}
    codes, said = finish(alone, tmp_path, seconds=120)
    text = said[f"host-{here}"]
    assert codes[f"host-{here}"] in (2, 75), text
    assert time.monotonic() - began < 120
    sentence = text.strip().splitlines()[-1]
    assert sentence.startswith("memjax: ")
    assert absent in sentence
    assert "same command on every host" in sentence
    assert not (tmp_path / "run" / FOLDER).exists()

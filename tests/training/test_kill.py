"""Real processes, really killed."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from memjax.training.checkpoint import FOLDER, newest_good_step
from memjax.training.logging import read_metrics
from tests.commands import PATIENCE

HERE = pathlib.Path(__file__).parent
TOTAL, EVERY = 120, 7


def start(workdir, cache, seconds=0.01):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    arguments = [str(workdir), str(TOTAL), str(EVERY), str(seconds)]
    return subprocess.Popen(
        [sys.executable, str(HERE / "toy_run.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_step(workdir):
    rows = read_metrics(workdir / "metrics.jsonl")
    return rows[-1]["step"] if rows else 0


def signal_at(process, workdir, step, number, delay=0.0):
    """Sends a signal once the run has logged ``step``."""
    deadline = time.monotonic() + PATIENCE
    while last_step(workdir) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def finish(process):
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    start_step, digest = output.split()
    return int(start_step), digest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
    """The hash of the final state of a run that nobody stopped."""
    start_step, digest = finish(start(tmp_path_factory.mktemp("straight"), cache, 0.0))
    assert start_step == 0
    return digest


@pytest.mark.thorough
def test_twenty_kills_at_random_moments_change_no_bit(straight, cache, tmp_path):
    rng = random.Random(2024)
    # Early, late, between checkpoints and, with the delay, in the middle of writing one.
    targets = sorted(rng.sample(range(1, TOTAL - 5), 20))
    for target in targets:
        process = start(tmp_path, cache)
        code, errors = signal_at(process, tmp_path, target, signal.SIGKILL, rng.uniform(0, 0.03))
        assert code == -signal.SIGKILL, errors
    start_step, digest = finish(start(tmp_path, cache, 0.0))
    assert start_step > 0
    assert digest == straight
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, TOTAL + 1))
    assert newest_good_step(tmp_path / FOLDER) == (TOTAL, [])


@pytest.mark.slow
def test_sigterm_saves_and_asks_to_be_started_again(straight, cache, tmp_path):
    code, errors = signal_at(start(tmp_path, cache), tmp_path, 23, signal.SIGTERM)
    assert code == 75, errors
    step, skipped = newest_good_step(tmp_path / FOLDER)
    assert step >= 23
    assert skipped == []
    start_step, digest = finish(start(tmp_path, cache, 0.0))
    assert start_step == step
    assert digest == straight

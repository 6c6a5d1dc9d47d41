"""Processes of this machine: small programs stand in for the training."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from memjax.tools.launch.local import free_port, run_local
from memjax.tools.launch.processes import Process, Stop, run_together
from tests.commands import PATIENCE

ROOT = Path(__file__).parents[3]


def program(code: str, *words: object, **environment: str) -> Process:
    """A process that runs a few lines of Python."""
    text = "import os, signal, sys, time\n" + textwrap.dedent(code)
    return Process([sys.executable, "-c", text, *map(str, words)], environment)


def run(folder, *processes, max_restarts=3, grace=2.0):
    return run_local(
        lambda port: processes, folder, "films", max_restarts=max_restarts, pause=0.0, grace=grace
    )


def counted(folder, *codes):
    """A program that ends with the next code at each start."""
    return program(
        """
        import pathlib
        turn = pathlib.Path(sys.argv[1], "turn")
        number = int(turn.read_text()) if turn.exists() else 0
        turn.write_text(str(number + 1))
        print("start", number, flush=True)
        sys.exit(int(sys.argv[2 + number]))
        """,
        folder,
        *codes,
    )


def starts(folder):
    return int((folder / "turn").read_text())


@pytest.mark.parametrize(
    ("codes", "code", "number"),
    [
        ((0,), 0, 1),
        ((75, 0), 0, 2),
        ((1, 75, 3, 0), 0, 4),
        ((2, 0), 2, 1),
        ((1, 1, 1, 7, 0), 7, 4),
        ((75, 75, 75, 75, 0), 75, 4),
    ],
)
def test_it_starts_again_after_75_and_after_a_crash(codes, code, number, tmp_path, capfd):
    assert run(tmp_path, counted(tmp_path, *codes)) == code
    assert starts(tmp_path) == number
    log = (tmp_path / "process-0.log").read_text()
    assert [line for line in log.splitlines() if line.startswith("start")] == [
        f"start {i}" for i in range(number)
    ]
    said = capfd.readouterr()
    assert "start 0" in said.out
    assert all(line.startswith("memjax launch: ") for line in said.err.splitlines())
    if code == 2:
        assert "a mistake in the command" in said.err
    elif code:
        assert "after 3 restarts, the most allowed" in said.err


def test_each_process_has_a_log_and_the_first_one_is_shown(tmp_path, capfd):
    talk = "print('process', sys.argv[1], os.environ['WHO'], flush=True)"
    both = [program(talk, i, WHO=f"number {i}") for i in range(3)]
    assert run(tmp_path, *both) == 0
    for index in range(3):
        assert f"process {index} number {index}" in (tmp_path / f"process-{index}.log").read_text()
    shown = capfd.readouterr().out
    assert "process 0 number 0" in shown
    assert "process 1" not in shown


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"


def test_when_one_dies_the_others_end_within_the_grace(tmp_path, capfd):
    begun = time.monotonic()
    dying = program("time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)")
    assert run(tmp_path, program(DEAF), dying, max_restarts=0, grace=1.0) == 128 + signal.SIGKILL
    assert time.monotonic() - begun < 60
    assert "process 1 was killed by SIGKILL" in capfd.readouterr().err


def test_the_crash_is_named_and_not_what_it_led_to(tmp_path, capfd):
    """The process that crashed, not those that stopped because of it, is the reason."""
    polite = program("signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(300)")
    assert run(tmp_path, polite, program("time.sleep(0.5); sys.exit(9)"), max_restarts=0) == 9
    assert "process 1 ended with exit code 9" in capfd.readouterr().err


def test_the_others_may_finish_saving_after_75(tmp_path):
    saving = program(
        "time.sleep(1.0); open(sys.argv[1], 'w').close(); sys.exit(75)", tmp_path / "saved"
    )
    assert run(tmp_path, program("sys.exit(75)"), saving, max_restarts=0, grace=5.0) == 75
    assert (tmp_path / "saved").exists()


def test_what_a_process_started_is_ended_with_it(tmp_path):
    parent = program(
        """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        open(sys.argv[1], "w").write(str(child.pid))
        sys.exit(5)
        """,
        tmp_path / "child",
    )
    assert run(tmp_path, parent, max_restarts=0) == 5
    until = time.monotonic() + PATIENCE
    while _runs(int((tmp_path / "child").read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_cannot_be_started_ends_the_others(tmp_path):
    sleeping = program(
        "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(300)", "/dev/null"
    )
    with Stop() as stop, pytest.raises(OSError, match="nowhere"):
        run_together([sleeping, Process(["/nowhere/at/all"], {})], tmp_path, stop, 1.0)
    assert stop.running == []


SAVES = """
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(300)
"""
LAUNCHER = """
import sys
from pathlib import Path
from tests.tools.launch.test_local import DEAF, SAVES, program, run
code = {"saves": SAVES, "deaf": DEAF}[sys.argv[2]]
sys.exit(run(Path(sys.argv[1]), program(code), program(code), grace=float(sys.argv[3])))
"""


def launcher(folder, kind, grace):
    words = [sys.executable, "-c", LAUNCHER, str(folder), kind, str(grace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    started = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    logs = [folder / f"process-{index}.log" for index in range(2)]
    until = time.monotonic() + PATIENCE
    while not all(log.exists() and log.read_text().count("\n") > 1 for log in logs):
        assert time.monotonic() < until
        assert started.poll() is None
        time.sleep(0.05)
    return started, logs


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_nothing_starts_again(number, tmp_path):
    started, logs = launcher(tmp_path, "saves", 20)
    started.send_signal(number)
    said = started.communicate(timeout=PATIENCE)[1]
    assert started.returncode == 75
    assert all("saved" in log.read_text() for log in logs)
    assert all(log.read_text().count("ready") == 1 for log in logs)
    assert "was stopped and has saved: launch it again" in said


@pytest.mark.slow
def test_a_process_that_does_not_listen_is_killed_after_the_grace(tmp_path):
    started, _ = launcher(tmp_path, "deaf", 1.0)
    started.terminate()
    said = started.communicate(timeout=PATIENCE)[1]
    assert started.returncode == 128 + signal.SIGKILL
    assert "was stopped: process" in said


@pytest.mark.slow
def test_the_second_signal_kills(tmp_path):
    started, _ = launcher(tmp_path, "deaf", 300)
    begun = time.monotonic()
    started.terminate()
    time.sleep(0.5)
    started.terminate()
    started.communicate(timeout=PATIENCE)
    assert started.returncode == 128 + signal.SIGKILL
    assert time.monotonic() - begun < 60


def test_a_stop_between_two_starts_is_kept(tmp_path):
    """A signal during the pause before a restart ends the loop."""
    seen = []

    def processes(port):
        seen.append(port)
        return [program("sys.exit(75)")]

    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    code = run_local(processes, tmp_path, "films", max_restarts=3, pause=30.0, grace=1.0)
    timer.join()
    assert code == 75
    assert len(seen) == 1


def test_ports_are_free_and_differ():
    assert 1024 <= free_port() < 65536

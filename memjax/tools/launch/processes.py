"""Processes of one run on this machine: started, watched and ended together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from memjax.runtime.interruption import RESTART_EXIT_CODE

_LOOK = 0.05
_AFTER_A_CRASH = 15.0  # the others cannot save without the one that is gone


class Process(NamedTuple):
    """What is started: words of a command, and what its environment has besides ours."""

    words: Sequence[str]
    environment: Mapping[str, str]


class Death(NamedTuple):
    """How the first process that failed ended; ``code`` is as a shell would say it."""

    which: int
    code: int

    def __str__(self) -> str:
        if self.code == RESTART_EXIT_CODE:
            return f"process {self.which} saved and asked to be started again (exit code 75)"
        if self.code > 128:
            return f"process {self.which} was killed by {_signal_name(self.code - 128)}"
        return f"process {self.which} ended with exit code {self.code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Stop:
    """Turns SIGTERM and SIGINT into SIGTERM for the processes that run now; the second one kills.

    Each command runs under a parent that passes on SIGTERM alone, so Ctrl-C becomes SIGTERM here.
    """

    def __init__(self) -> None:
        """Starts with no process and no signal."""
        self.asked = 0
        self.running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Stop":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: self.ask())
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        end(self.running, 0.0)

    def ask(self) -> None:
        """Asks all to save and stop; kills them from the second time on."""
        self.asked += 1
        for process in self.running:
            if process.poll() is None and self.asked == 1:
                process.terminate()
            elif self.asked > 1:
                _kill(process)


def run_together(
    processes: Sequence[Process],
    logs: Path,
    stop: Stop,
    grace: float,
    shown: Callable[[bytes], object] | None = None,
) -> Death | None:
    """Runs processes until all are done, and ends the others when one fails.

    Args:
        processes: What is started, in order.
        logs: Folder; ``process-0.log`` and so on are appended to.
        stop: Who forwards signals.
        grace: Seconds that processes get to save before SIGKILL; 15 at most after a crash.
        shown: Gets the output of process 0 as well (default: written to the terminal).

    Returns:
        How the first one failed; None where all ended with 0.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pumps = []
    stop.running = []
    try:
        for index, process in enumerate(processes):
            log = logs / f"process-{index}.log"
            log.touch()  # a log that cannot be written is said before anything runs
            started = _start(process)
            stop.running.append(started)
            if stop.asked:  # between two starts
                started.send_signal(signal.SIGTERM)
            show = (shown or _show) if index == 0 else None
            pumps.append(_pump(started, log, show))
        return _watch(stop, grace)
    finally:
        end(stop.running, 0.0)
        for pump in pumps:
            pump.join(timeout=5)  # a grandchild may keep the pipe open
        stop.running = []


def _start(process: Process) -> subprocess.Popen[bytes]:
    """Starts one process in a session of its own: Ctrl-C reaches it once, through :class:`Stop`."""
    return subprocess.Popen(
        list(process.words),
        env={**os.environ, "PYTHONUNBUFFERED": "1", **process.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _pump(
    process: subprocess.Popen[bytes], log: Path, show: Callable[[bytes], object] | None
) -> threading.Thread:
    """Copies a process's output into its log, and to the terminal where it is shown."""

    source = process.stdout
    assert source is not None

    def copy() -> None:
        with source, open(log, "ab", buffering=0) as file:
            file.write(f"== {time.strftime('%FT%TZ', time.gmtime())} start\n".encode())
            while data := os.read(source.fileno(), 65536):
                file.write(data)
                if show:
                    show(data)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _show(data: bytes) -> None:
    sys.stdout.write(data.decode(errors="replace"))
    sys.stdout.flush()


def _watch(stop: Stop, grace: float) -> Death | None:
    """Waits for all; ends the rest after a failure, or ``grace`` seconds after a signal."""
    death: Death | None = None
    asked_at = 0.0
    while True:
        codes = [process.poll() for process in stop.running]
        failed = [i for i, code in enumerate(codes) if code]
        if failed and death is None:
            first = next((i for i in failed if codes[i] != RESTART_EXIT_CODE), failed[0])
            death = Death(first, _shell_code(codes[first] or 0))
        if None not in codes:
            return death
        if stop.asked and not asked_at:
            asked_at = time.monotonic()
        late = bool(asked_at) and time.monotonic() - asked_at > grace
        if late or (death is not None and not stop.asked):
            if death is not None and death.code == RESTART_EXIT_CODE and not late:
                _wait(stop.running, grace)  # the others are saving too
            end(stop.running, 0.0 if late else min(grace, _AFTER_A_CRASH))
        time.sleep(_LOOK)


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def end(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """Ends processes: SIGTERM, and SIGKILL to those that still run after ``grace`` seconds."""
    if grace:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        _wait(processes, grace)
    for process in processes:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and what it started: all of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(p.poll() is None for p in processes):
        time.sleep(_LOOK)

"""The restart loop around processes of this machine."""

import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from memjax.tools.launch.processes import RESTART_EXIT_CODE, Death, Process, Stop, run_together

EXIT_USER_ERROR = 2


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_local(
    processes: Callable[[str], Sequence[Process]],
    logs: Path,
    run_id: str,
    *,
    max_restarts: int,
    pause: float,
    grace: float,
) -> int:
    """Runs processes together and starts them again after a stop, as often as is allowed.

    Args:
        processes: Port → what is started; called at each start.
        logs: Folder of the logs.
        run_id: Name in what is said.
        max_restarts: How often they are started again, after 75 and after a crash alike.
        pause: Seconds before a restart.
        grace: Seconds between SIGTERM and SIGKILL.

    Returns:
        0 when all are done; 2 after a user's mistake, at once; 75 when a signal stopped a run that
        saved; else the exit code of the process that failed first, 128 + n for signal n.
    """
    with Stop() as stop:
        for restart in range(max_restarts + 1):
            death = run_together(processes(str(free_port())), logs, stop, grace)
            if death is None:
                return 0
            if stop.asked or death.code == EXIT_USER_ERROR or restart == max_restarts:
                return _given_up(death, logs, run_id, restart, bool(stop.asked))
            _say(f"{death}: {run_id} starts again in {pause:g} s ({restart + 1}/{max_restarts}).")
            _rest(pause, stop)
            if stop.asked:
                return RESTART_EXIT_CODE
    raise AssertionError("unreachable: the loop returns")


def _given_up(death: Death, logs: Path, run_id: str, restarts: int, asked: bool) -> int:
    log = logs / f"process-{death.which}.log"
    if asked and death.code == RESTART_EXIT_CODE:
        _say(f"{run_id} was stopped and has saved: launch it again to go on.")
    elif asked:
        _say(f"{run_id} was stopped: {death}; its log is {log}.")
    elif death.code == EXIT_USER_ERROR:
        _say(f"{death}, a mistake in the command: {log} says which; it is not started again.")
    else:
        _say(f"{death} after {restarts} restarts, the most allowed: {log} says more.")
    return death.code


def _rest(seconds: float, stop: Stop) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.asked:
        time.sleep(min(0.05, seconds))


def _say(sentence: str) -> None:
    print(f"memjax launch: {sentence}", file=sys.stderr, flush=True)

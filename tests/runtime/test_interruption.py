"""The first signal stops a command politely, wherever it meets it; the second acts as usual."""

import os
import signal
import subprocess
import sys

import pytest

from memjax.runtime.interruption import Stopped, stop_at_once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_raised_once_and_the_handlers_come_back(number):
    before = signal.signal(number, signal.default_int_handler)
    try:
        with stop_at_once() as came, pytest.raises(Stopped):
            os.kill(os.getpid(), number)
        assert came == [number]
        assert signal.getsignal(number) is signal.default_int_handler
        with stop_at_once():
            assert signal.getsignal(number) is not signal.default_int_handler
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored():
    """A shell's background process ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_at_once() as came:
            os.kill(os.getpid(), signal.SIGINT)
        assert not came
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_exit_code_survives_code_that_was_made_of_text(tmp_path):
    (tmp_path / "stopped.py").write_text(
        "import os, signal, sys\n"
        "from memjax.runtime.interruption import stop_at_once\n"
        "with stop_at_once():\n"
        "    try:\n"
        "        exec('os.kill(os.getpid(), signal.SIGTERM)')\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(75)\n"
    )
    here = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "stopped"], env={**os.environ, "PYTHONPATH": here}, check=False
    )
    assert done.returncode == 75

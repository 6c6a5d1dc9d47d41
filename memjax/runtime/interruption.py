"""Being asked to stop: finish the step, save, and say "start me again"."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

RESTART_EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818 - a way out, not an error
    """A run stopped early after saving; starting it again continues it.

    Attributes:
        step: The step that was saved.
        exit_code: What a command should exit with (75, "temporary failure, try again").
    """

    exit_code = RESTART_EXIT_CODE

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step} and saved: run the same command to continue.")
        self.step = step


class Stopped(KeyboardInterrupt):
    """What :func:`stop_at_once` raises.

    A class of its own: where Python has seen a plain ``KeyboardInterrupt`` pass through code that
    was made of text, ``python -m`` ends by SIGINT whatever exit code it is given.
    """


@contextlib.contextmanager
def stop_at_once() -> Iterator[list[signal.Signals]]:
    """Makes the first SIGTERM or SIGINT raise :class:`Stopped` in the main thread.

    What is written whole or not at all stays so. A second signal acts as usual.

    Yields:
        The signals that came.
    """
    came: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        restore()
        raise Stopped

    def restore() -> None:
        for number, before in previous.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, before)

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handle)
    try:
        yield came
    finally:
        restore()


class StopSignals:
    """Turns the first SIGTERM or SIGINT into a flag; the second acts as usual.

    With several processes the signal belongs to the cluster's preemption service, which makes all
    processes stop at the same step: then nothing is installed and ``preempted`` is asked instead.
    """

    def __init__(self, preempted: Callable[[int], bool] | None = None):
        """Takes ``preempted(step)``, the cluster's answer, used with several processes only."""
        self._preempted = preempted
        self._flag = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        import jax

        main = threading.current_thread() is threading.main_thread()
        if main and not jax.distributed.is_initialized():
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._flag = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def requested(self, step: int) -> bool:
        """Returns whether the run should stop after ``step``."""
        import jax

        if self._preempted is not None and jax.distributed.is_initialized():
            return self._preempted(step)
        return self._flag

"""A trace of some steps, for TensorBoard's profile page or XProf."""

import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

logger = logging.getLogger(__name__)
FOLDER = "profile"


class Profiler:
    """Records the steps ``[first, first + count)`` of a run in ``workdir/profile``.

    Use as a context manager: a trace that a stop cuts short is written all the same.
    """

    def __init__(self, workdir: str | os.PathLike[str], first: int, count: int):
        """Takes the first step and their number; 0 records nothing.

        Raises:
            ValueError: The number is negative.
        """
        if count < 0:
            raise ValueError(f"profile_steps is {count}, expected at least 0.")
        self._folder = Path(workdir) / FOLDER
        self._first, self._last = first, first + count - 1
        self._running = False

    def before(self, step: int) -> None:
        """Starts the trace where this step is the first."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace once the last step is done."""
        if self._running and step == self._last:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        logger.info("trace in %s: tensorboard --logdir shows it (plug-in xprof).", self._folder)

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._running:
            self._stop()

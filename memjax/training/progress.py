"""Progress for whoever is watching: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Any, TextIO


def duration(seconds: float) -> str:
    """Returns ``1:02:03`` or ``02:03``."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


class Progress:
    """Shows step, loss, images per second and time left.

    On a terminal this is a tqdm bar; on any other stream one line every ``interval`` seconds.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        stream: TextIO | None = None,
        interval: float = 30.0,
        enabled: bool = True,
    ):
        """Starts the clock.

        Args:
            total_steps: Step at which the run ends.
            start_step: Step at which it starts.
            stream: Where to write; standard error by default.
            interval: Seconds between lines when the stream is not a terminal.
            enabled: False shows nothing (processes other than the first).
        """
        self._total, self._step = total_steps, start_step
        self._stream = stream if stream is not None else sys.stderr
        self._interval, self._enabled = interval, enabled
        self._last_line = time.monotonic()
        self._first: tuple[int, float] | None = None  # compiling is over: the time left is known
        self._bar: Any = None
        if enabled and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total_steps, initial=start_step, file=self._stream, unit="step", desc="train"
            )

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Moves to ``step``."""
        if not self._enabled:
            return
        advance, self._step = step - self._step, step
        said = [f"loss {loss:.4f}"]
        if images_per_second:
            said.append(f"{images_per_second:.1f} images/s")
        if self._first is None:
            self._first = (step, time.monotonic())
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(said), refresh=False)
            self._bar.update(advance)
        elif time.monotonic() - self._last_line >= self._interval or step >= self._total:
            self._last_line = time.monotonic()
            words = [f"step {step}/{self._total}", *said, *self._left()]
            self._stream.write("  ".join(words) + "\n")
            self._stream.flush()

    def _left(self) -> list[str]:
        """Returns the time left as one word, or none before a second row has come."""
        if self._first is None or self._step == self._first[0]:
            return []
        seconds = (time.monotonic() - self._first[1]) / (self._step - self._first[0])
        return [f"{duration(seconds * (self._total - self._step))} left"]

    def close(self) -> None:
        """Finishes the bar."""
        if self._bar is not None:
            self._bar.close()

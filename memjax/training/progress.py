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
        self._total, self._start, self._step = total_steps, start_step, start_step
        self._stream = stream if stream is not None else sys.stderr
        self._interval, self._enabled = interval, enabled
        self._begin = self._last_line = time.monotonic()
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
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}, {images_per_second:.1f} images/s", refresh=False
            )
            self._bar.update(advance)
        elif time.monotonic() - self._last_line >= self._interval or step >= self._total:
            self._last_line = time.monotonic()
            self._stream.write(self._line(loss, images_per_second) + "\n")
            self._stream.flush()

    def _line(self, loss: float, images_per_second: float) -> str:
        elapsed = time.monotonic() - self._begin
        left = elapsed / max(self._step - self._start, 1) * (self._total - self._step)
        return (
            f"step {self._step}/{self._total}  loss {loss:.4f}  "
            f"{images_per_second:.1f} images/s  {duration(left)} left"
        )

    def close(self) -> None:
        """Finishes the bar."""
        if self._bar is not None:
            self._bar.close()

"""What a training run shows and writes besides checkpoints: metrics, progress, grids of samples.

Metrics on disk are one JSON line a record, and TensorBoard events. Progress is a bar on a terminal,
a line now and then elsewhere.
"""

import contextlib
import io
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from memjax.runtime.files import naming, write_bytes
from memjax.runtime.json import BadLine, bad_lines, dumps, keep_aside, read_lines

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
EVENTS = "tensorboard"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file; lines that are damaged are left out, and the log names them."""
    rows, bad = _read(path)
    if bad:
        logger.warning("%s.", bad_lines(path, bad))
    return rows


def _read(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[BadLine]]:
    return read_lines(path, lambda row: isinstance(row.get("step", 0), int))


def _jsonable(value: Any) -> Any:
    number = float(value)
    return number if math.isfinite(number) else None


def _summary_writer_class() -> Any:
    """Imports tensorboardX without the torch it looks for: seconds, and nothing here needs it."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and to TensorBoard; rows beyond ``start_step`` are dropped.

    A run that resumes at step ``s`` repeats the steps after it, so their rows would stand twice.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], start_step: int = 0, *, tensorboard: bool = True
    ):
        """Opens the files of ``workdir`` for a run that continues after ``start_step``."""
        self._path = Path(workdir) / METRICS_FILE
        rows, bad = _read(self._path)
        keep_aside(self._path, bad)
        kept = [row for row in rows if row.get("step", 0) <= start_step]
        write_bytes(self._path, "".join(dumps(row) + "\n" for row in kept).encode())
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._events: Any = None
        if tensorboard:
            self._events = _summary_writer_class()(
                str(Path(workdir) / EVENTS), purge_step=start_step + 1 if start_step else None
            )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one row: step, time (Unix seconds) and the values; non-finite ones as null."""
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {name: _jsonable(value) for name, value in values.items()}
        try:
            self._file.write(dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"{self._path} could not be written ({error.strerror}): make room there, then "
                "start the same command again."
            ) from error
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, float(value), step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes an image to TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes."""
        with naming(self._path):
            self._file.close()
        if self._events is not None:
            try:
                self._events.close()
            except OSError:
                self._events.file_writer.event_writer._closed = True  # or it tries again at exit
                raise


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


def image_grid(
    images: Float[np.ndarray, "n h w c"], columns: int | None = None, padding: int = 2
) -> UInt8[np.ndarray, "H W c"]:
    """Lays images out row by row.

    Args:
        images: In [-1, 1], 1 or 3 channels; values outside are clipped, non-finite ones are black.
        columns: Images a row; by default as square as can be.
        padding: Black pixels between images.

    Raises:
        ValueError: If ``images`` is not a batch of images.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.shape[0] or images.shape[3] not in (1, 3):
        raise ValueError(f"images have shape {images.shape}, expected [n, height, width, 1 or 3].")
    n, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    pixels = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    pixels = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    cells = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    cells[:n, :height, :width] = pixels
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = cells.reshape(rows * (height + padding), columns * (width + padding), channels)
    return grid[: grid.shape[0] - padding, : grid.shape[1] - padding]


def png_bytes(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Encodes one image, gray or RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_grid(
    path: str | os.PathLike[str],
    images: Float[np.ndarray, "n h w c"],
    columns: int | None = None,
) -> Path:
    """Writes a grid of images in [-1, 1] as PNG."""
    return write_bytes(path, png_bytes(image_grid(images, columns)))


class Outputs:
    """Metrics, sample grids and progress of the first process; silent on the others."""

    def __init__(
        self,
        workdir: Path,
        start: int,
        total: int,
        enabled: bool,
        tensorboard: bool,
        progress: Progress | bool,
    ):
        self._samples = workdir / "samples"
        self._metrics = MetricsWriter(workdir, start, tensorboard=tensorboard) if enabled else None
        self._progress = (
            progress
            if isinstance(progress, Progress)
            else Progress(total, start, enabled=progress and enabled)
        )

    def log(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        for step, values in rows:
            if self._metrics is not None:
                self._metrics.scalars(step, values)
            self._progress.update(step, values["loss"], values["images_per_second"])

    def sample(self, step: int, images: Any) -> None:
        if self._metrics is None:
            return
        grid = image_grid(np.asarray(images))
        write_bytes(self._samples / f"step_{step:08d}.png", png_bytes(grid))
        self._metrics.image(step, "samples", grid)

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(OSError):  # what went wrong first is what is said
            self.close()

    def close(self) -> None:
        self._progress.close()
        if self._metrics is not None:
            self._metrics.close()

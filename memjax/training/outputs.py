"""What a training run shows and writes besides checkpoints."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from memjax.runtime.files import write_bytes
from memjax.training.metrics import MetricsWriter
from memjax.training.progress import Progress
from memjax.training.samples import image_grid, png_bytes


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

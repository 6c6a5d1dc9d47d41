"""Metrics on their way from the device to the host, a run's speed, its traces, its last report.

A trace of some steps is for TensorBoard's profile page or XProf. ``nan_report.json`` holds what is
known when a run gives up: steps, rows and norms.
"""

import collections
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from memjax.core.mesh import fetch
from memjax.runtime.clock import Clock
from memjax.runtime.json import write_json
from memjax.training.state import TrainState

LAST_VALUE = ("skipped", "total_skipped", "learning_rate")
IN_FLIGHT = 2
logger = logging.getLogger(__name__)
PROFILE_FOLDER = "profile"
NAN_REPORT_FILE = "nan_report.json"


class TrainingDiverged(RuntimeError):  # noqa: N818 - says what happened
    """Too many steps in a row had a non-finite loss or gradient."""


class Throughput:
    """Images per second of the steps alone: compiling, sampling and saving do not count."""

    def __init__(self) -> None:
        self.images = 0
        self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Lets the clock run."""
        if self._since is None:
            self._since = time.monotonic()

    def pause(self) -> None:
        """Stops the clock."""
        self._seconds, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the measure."""
        self.pause()
        yield
        self.start()

    @property
    def seconds(self) -> float:
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._seconds + running

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.images and self.seconds > 0 else 0.0


class _Step(NamedTuple):
    step: int
    metrics: Mapping[str, Any]
    rows: Any


class _Window(NamedTuple):
    step: int
    steps: list[_Step]
    spent: Mapping[str, float]
    images: int


class Meter:
    """Collects device metrics without making the host wait for the step under way.

    A window of steps is fetched once the step after it has been dispatched, so the device always
    has work; at most two steps are in flight, so batches do not pile up.
    """

    def __init__(self, max_skips: int, flops_per_image: float = 0.0, peak_flops: float = 0.0):
        """Opens the books.

        Args:
            max_skips: Consecutive non-finite steps at which to give up.
            flops_per_image: Operations of a step for one image; 0: not known.
            peak_flops: Operations a second that all devices can do; 0: not known.
        """
        self._max_skips = max_skips
        self._flops, self._peak = flops_per_image, peak_flops
        self._window: list[_Step] = []
        self._closed: list[_Window] = []
        self._in_flight: collections.deque[Any] = collections.deque()
        self._images = 0  # of the window that is open
        self._mark = 0.0
        self.throughput = Throughput()
        self.clock = Clock()
        self.bad: list[dict[str, Any]] = []  # the non-finite steps in a row, up to now
        self.first_step_seconds = 0.0  # with the compilation

    def add(
        self,
        metrics: Mapping[str, Any],
        images: int,
        step: int = 0,
        rows: Any = None,
        seconds: float = 0.0,
    ) -> None:
        """Takes the metrics of a step just dispatched.

        Args:
            metrics: Scalars on the device.
            images: Examples of the step.
            step: Its number.
            rows: Which rows it saw.
            seconds: How long its call took.
        """
        self._window.append(_Step(step, metrics, rows))
        self._in_flight.append(metrics)
        if self.throughput.seconds == 0.0:
            began = time.monotonic()
            jax.block_until_ready(metrics)
            self.first_step_seconds = seconds + time.monotonic() - began
            self.throughput.start()
            return
        self.throughput.images += images
        self._images += images
        if len(self._in_flight) > IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())

    def close_window(self, step: int) -> None:
        """Ends the window with ``step``; it will be fetched later."""
        if self._window:
            self._closed.append(_Window(step, self._window, self.clock.take(), self._images))
            self._window, self._images = [], 0

    def fetch(self, step: int, *, wait: bool = False) -> list[tuple[int, dict[str, float]]]:
        """Returns ``(step, means)`` of closed windows that ended before ``step``.

        Args:
            step: The step dispatched last.
            wait: Fetch all of them, and wait for what is under way.

        Raises:
            TrainingDiverged: If ``max_skips`` consecutive steps were not finite.
        """
        if wait:
            jax.block_until_ready(list(self._in_flight))
            self._in_flight.clear()
        ready = [window for window in self._closed if wait or window.step < step]
        self._closed = self._closed[len(ready) :]
        means = [(window.step, self._means(window)) for window in ready]
        speeds = self._speeds(sum(window.images for window in ready)) if ready else {}
        return [
            (step, {**found, **speeds, **window.spent})
            for (step, found), window in zip(means, ready, strict=True)
        ]

    def _means(self, closed: _Window) -> dict[str, float]:
        window = jax.device_get([one.metrics for one in closed.steps])
        means = {}
        for name in window[0]:
            values = np.asarray([metrics[name] for metrics in window], np.float64)
            finite = values[np.isfinite(values)]
            means[name] = float(values[-1] if name in LAST_VALUE or not finite.size else 0.0)
            if name not in LAST_VALUE and finite.size:
                means[name] = float(finite.mean())
        self._note_bad(closed.steps, window)
        self._check(closed.step, max((float(m.get("skipped", 0)) for m in window), default=0.0))
        return means

    def _note_bad(self, steps: list[_Step], window: list[Mapping[str, Any]]) -> None:
        for one, metrics in zip(steps, window, strict=True):
            if not metrics.get("skipped", 0):
                self.bad = []
                continue
            rows = [] if one.rows is None else [int(row) for row in fetch(one.rows)]
            norms = {n: float(metrics[n]) for n in ("loss", "grad_norm") if n in metrics}
            self.bad.append({"step": one.step, **norms, "rows": rows})

    def _check(self, step: int, skipped: float) -> None:
        if skipped >= self._max_skips:
            raise TrainingDiverged(
                f"{int(skipped)} steps in a row up to step {step} had a non-finite loss or "
                "gradient: the weights are as before them; lower the learning rate, compute in "
                "float32, or look at the images of these steps."
            )

    def _speeds(self, images: int) -> dict[str, float]:
        """Returns the speed since the last call; 0: nothing but the first step, which compiles."""
        now = self.throughput.seconds
        seconds, self._mark = now - self._mark, now
        speed = images / seconds if seconds > 0 else 0.0
        found = {"images_per_second": speed}
        if self._flops:
            found["tflop_per_second"] = speed * self._flops / 1e12
            if self._peak:
                found["mfu"] = speed * self._flops / self._peak
        return found


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
        self._folder = Path(workdir) / PROFILE_FOLDER
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


def write_nan_report(
    workdir: str | os.PathLike[str], bad: Sequence[Mapping[str, Any]], state: TrainState, batch: Any
) -> Path:
    """Writes what the last, non-finite steps have in common; all processes must call it.

    Args:
        workdir: The run's folder.
        bad: The steps in a row that were skipped: ``step``, ``loss``, ``grad_norm``, ``rows``.
        state: The state; its weights are those before the first of them.
        batch: The newest batch.
    """
    norms = {name: getattr(state, name) for name in ("params", "ema_params")}
    report = {
        "steps": [_plain(entry) for entry in bad],
        "rows_in_all_steps": _common_rows(bad),
        "norms": {name: _norms(tree) for name, tree in norms.items()},
        "updates": int(state.updates),
        "total_skipped": int(state.total_skipped),
        "last_batch": _of_batch(batch),
    }
    path = Path(workdir) / NAN_REPORT_FILE
    if jax.process_index() == 0:
        write_json(path, report)
    return path


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    def value(v: Any) -> Any:
        if isinstance(v, float):
            return v if np.isfinite(v) else str(v)
        return v

    return {name: value(v) for name, v in entry.items()}


def _common_rows(bad: Sequence[Mapping[str, Any]]) -> list[int]:
    sets = [set(entry["rows"]) for entry in bad if entry.get("rows")]
    return sorted(set.intersection(*sets)) if sets else []


def _norms(tree: Any) -> dict[str, float]:
    """Returns the l2 norm of the tree and of its parts, two names deep."""
    found = {"all": float(optax.tree.norm(tree))}
    parts = [((name,), part) for name, part in tree.items()] if isinstance(tree, Mapping) else []
    for names, part in parts:
        deeper = part.items() if isinstance(part, Mapping) else ()
        for name, inner in deeper:
            found["/".join((*names, name))] = float(optax.tree.norm(inner))
    return found


def _of_batch(batch: Any) -> list[dict[str, Any]]:
    """Returns one entry an image: its row, range, and how many values are not finite."""
    pictures = fetch(getattr(batch, "image", getattr(batch, "moments", None)))
    rows = fetch(batch.row)
    if pictures is None:
        return [{"row": int(row)} for row in rows]
    entries = []
    for row, picture in zip(rows, np.asarray(pictures, np.float64), strict=True):
        finite = picture[np.isfinite(picture)]
        entries.append(
            {
                "row": int(row),
                "not_finite": int(picture.size - finite.size),
                "least": float(finite.min()) if finite.size else None,
                "most": float(finite.max()) if finite.size else None,
                "mean": float(finite.mean()) if finite.size else None,
            }
        )
    return entries

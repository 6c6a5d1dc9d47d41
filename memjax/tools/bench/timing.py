"""Measuring two sides in turn, and what of the machine belongs next to a figure."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.runtime.cores import usable_cores

BUSY = 0.5  # load a core before the start from which on the figures are not to be trusted


class Case(NamedTuple):
    """One thing to measure.

    Attributes:
        title: For the table.
        unit: What the figure counts.
        per_second: Whether the figure is amount per second, else seconds per amount.
    """

    title: str
    unit: str
    per_second: bool


CASES = {
    "train": Case("training", "images/s", True),
    "sample": Case("guided sampling", "pictures/s", True),
    "detect": Case("first-step detection", "prompts/s", True),
    "mitigate": Case("mitigation", "s/prompt", False),
}


class Times(NamedTuple):
    """What one repeat took: wall time, and the processor time of all its threads, in seconds."""

    wall: float
    cpu: float


def alternate(
    runs: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Times], dict[str, list[Times]]]:
    """Runs sides of this process in turn: see :func:`take_turns`.

    Args:
        runs: Side → one repeat's work. What it returns is checked to be finite.
        repeats: Timed repeats a side, after one untimed.
    """
    return take_turns({name: partial(_timed, run) for name, run in runs.items()}, repeats)


def take_turns(
    calls: Mapping[str, Callable[[], tuple[Any, Times]]], repeats: int
) -> tuple[dict[str, Times], dict[str, list[Times]]]:
    """Calls the sides in turn and returns the times of ``(first run, repeats)`` a side.

    The order is reversed at every other repeat, so that neither side always runs second.

    Args:
        calls: Side → one repeat, which returns its value and what it took. The value is checked to
            be finite.
        repeats: Timed repeats a side, after one untimed.

    Raises:
        ValueError: A side computed something that is not finite.
    """
    names = list(calls)
    warmup = {name: _checked(name, calls[name]) for name in names}
    times: dict[str, list[Times]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            times[name].append(_checked(name, calls[name]))
    return warmup, times


def _timed(run: Callable[[], Any]) -> tuple[Any, Times]:
    began, began_cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, Times(time.perf_counter() - began, time.process_time() - began_cpu)


def _checked(name: str, call: Callable[[], tuple[Any, Times]]) -> Times:
    result, times = call()
    if not np.all(np.isfinite(result)):
        raise ValueError(
            f"the {name} side computed a value that is not finite, expected finite ones: lower "
            "--config.train.learning_rate."
        )
    return times


def summarize(
    case: Case,
    amount: int,
    warmup: Mapping[str, Times],
    times: Mapping[str, list[Times]],
    flops: float | None = None,
    peak: float | None = None,
) -> dict[str, Any]:
    """Returns figures, raw times and, with two sides, how many times faster memjax is.

    The ratio is ``median(torch seconds) / median(memjax seconds)`` of wall time; low and high are
    the extremes over the repeats' pairs; ``cpu_ratio`` is the same of processor time, which other
    work on the machine touches less.

    Args:
        case: What was measured.
        amount: Images or prompts a repeat.
        warmup: Times of the first run, which holds the compilation.
        times: Times of each repeat.
        flops: Operations of one repeat, counted in memjax's program; both sides' rates are of
            these, whatever torch computes beyond them.
        peak: Operations a second of the machine's measured peak.
    """
    sides: dict[str, dict[str, Any]] = {}
    for name, repeats in times.items():
        wall = statistics.median(t.wall for t in repeats)
        sides[name] = {
            "median": amount / wall if case.per_second else wall / amount,
            "median_seconds": wall,
            "median_cpu_seconds": statistics.median(t.cpu for t in repeats),
            "raw_seconds": [t.wall for t in repeats],
            "raw_cpu_seconds": [t.cpu for t in repeats],
            "warmup_seconds": warmup[name].wall,
        }
        if flops is not None:
            sides[name]["tflop_per_second"] = flops / wall / 1e12
            sides[name]["of_peak"] = flops / wall / peak if peak else None
    result: dict[str, Any] = {"unit": case.unit, "amount_per_repeat": amount, "sides": sides}
    result |= {"title": case.title, "flops": flops, "ratio": None}
    return result | _ratios(sides) if "torch" in sides else result


def _ratios(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    ours, theirs = sides["memjax"], sides["torch"]
    pairs = [t / m for m, t in zip(ours["raw_seconds"], theirs["raw_seconds"], strict=True)]
    return {
        "ratio": theirs["median_seconds"] / ours["median_seconds"],
        "ratio_low": min(pairs),
        "ratio_high": max(pairs),
        "cpu_ratio": theirs["median_cpu_seconds"] / ours["median_cpu_seconds"],
    }


def load_average() -> float | None:
    """Returns the one-minute load average, or None where the system keeps none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def is_busy(load: float | None) -> bool:
    """Whether other work kept the cores busy before a measurement began."""
    return load is not None and load > BUSY * usable_cores()


def machine() -> dict[str, Any]:
    """Returns cores, processor and platform; no name of the machine or its user."""
    return {
        "usable_cores": usable_cores(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def bench_versions() -> dict[str, str]:
    """Returns the versions of memjax and its libraries, and of torch and diffusers."""
    # Brings JAX, which torch's process does without.
    from memjax.runtime.provenance import versions

    found = versions()
    for name in ("torch", "diffusers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found

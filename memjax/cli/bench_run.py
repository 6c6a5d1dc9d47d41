"""One measurement under one allocator setting, in this process or in a fresh one."""

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax

from memjax.cli.allocator import keep_freed_memory
from memjax.cli.bench_memjax import MemjaxSide
from memjax.cli.bench_timing import CASES, alternate, load_average, summarise, usable_cores
from memjax.cli.bench_torch import TorchSide
from memjax.cli.bench_torch_network import torch_missing
from memjax.cli.bench_worker import KEEP
from memjax.cli.bench_workload import Settings, Workload, make_workload

BUSY = 0.5  # load a core before the start from which on the figures are not to be trusted


def run_under(allocator: str, config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Measures with freed memory kept (``keep``) or with the allocator's own settings.

    glibc's settings hold for the whole process and cannot be taken back, so ``default`` measures
    in a process of its own.
    """
    if allocator == KEEP:
        kept = keep_freed_memory()
        return {"allocator": _allocator(kept), **measure(config, settings)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(measure, config, settings).result()
    return {"allocator": _allocator(False), **found}


def _allocator(kept: bool) -> dict[str, str]:
    """Says what both sides allocate with: one process, hence one setting."""
    preloaded = [Path(p).name for p in os.environ.get("LD_PRELOAD", "").split() if "malloc" in p]
    own = f"preloaded {', '.join(preloaded)}" if preloaded else "the system's own settings"
    setting = "glibc, freed memory kept mapped" if kept else own
    return {"memjax": setting, "torch": setting}


def measure(config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Runs the chosen cases, memjax and torch in turn; memjax alone where torch is missing.

    Raises:
        ValueError: The two networks differ in their number of parameters.
    """
    before = load_average()
    work = make_workload(config, settings)
    sides: dict[str, Any] = {"memjax": MemjaxSide(work)}
    missing = _why_alone()
    if not missing:
        sides["torch"] = TorchSide(work, usable_cores())
    parameters = {name: side.num_parameters for name, side in sides.items()}
    if len(set(parameters.values())) > 1:
        raise ValueError(f"the networks differ: {parameters} parameters, expected equal numbers.")
    cases = {name: _measure_case(name, sides, work) for name in settings.only}
    return {
        "torch_missing": missing,
        "parameters": parameters,
        "load_average": {"before": before, "after": load_average()},
        "busy": before is not None and before > BUSY * usable_cores(),
        "cases": cases,
    }


def _why_alone() -> str:
    platform = jax.devices()[0].platform
    if platform != "cpu":
        return (
            f"JAX computes on {platform} and the comparison is for the CPU, so memjax is measured "
            "alone; for the comparison: JAX_PLATFORMS=cpu memjax bench"
        )
    return torch_missing()


def _measure_case(name: str, sides: Mapping[str, Any], work: Workload) -> dict[str, Any]:
    settings = work.settings
    amounts = {
        "train": settings.steps * len(work.images),
        "detect": settings.prompts,
        "mitigate": settings.mitigate_prompts,
    }
    runs = {side: getattr(runner, name) for side, runner in sides.items()}
    warmup, times = alternate(runs, settings.repeats)
    gflop = sides["memjax"].gflop(name)
    return summarise(CASES[name], amounts[name], warmup, times, gflop)

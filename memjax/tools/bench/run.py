"""``memjax bench`` of a configuration's network: measure each side in turn, print, write.

Each side lives in a process of its own, so that memory is counted apart, and a case's peak is that
case's alone: every case starts new processes. They are called in turn, so that one computes at a
time.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from memjax.runtime.cores import usable_cores
from memjax.tools.bench.compile_time import measure_compile
from memjax.tools.bench.memjax_side import memjax_side
from memjax.tools.bench.peak import Probe
from memjax.tools.bench.report import finish, introduce
from memjax.tools.bench.tables import model_table
from memjax.tools.bench.task import BOTH, COMPILE, Settings, Task
from memjax.tools.bench.timing import CASES, is_busy, load_average, summarize, take_turns
from memjax.tools.bench.torch_side import TorchSide, torch_missing
from memjax.tools.bench.worker import DEFAULT, KEEP, Worker
from memjax.tools.bench.workload import check_comparable, make_workload


def run_under(allocator: str, config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Measures the chosen cases, memjax and torch in turn; memjax alone where torch is missing.

    Args:
        allocator: ``keep`` (glibc keeps freed memory) or ``default`` (its own settings), for both.
        config: The plain configuration.
        settings: How much is measured.

    Raises:
        ValueError: The two networks differ in their number of parameters.
    """
    before = load_average()
    task = make_workload(config, settings).task
    with Worker("memjax", allocator, Probe) as probe:
        peak, kept = probe.call("facts")[0], probe.kept
    missing = _why_alone(peak["platform"])
    parts: dict[str, Callable[[str], tuple]] = {
        "memjax": lambda case: (memjax_side, config, settings, case)
    }
    if not missing:
        parts["torch"] = lambda _: (TorchSide, task, usable_cores())
    names = [name for name in settings.only if name != COMPILE]
    cases = {
        name: _measure_case(name, parts, allocator, task, peak["flops_per_second"])
        for name in names
    }
    compiled = measure_compile(allocator, config, settings) if COMPILE in settings.only else {}
    return {
        "allocator": _allocator(kept),
        "torch_missing": missing,
        "parameters": _parameters(cases),
        "load_average": {"before": before, "after": load_average()},
        "busy": is_busy(before),
        "peak": peak,
        "cases": cases,
        COMPILE: compiled,
    }


def _allocator(kept: bool) -> dict[str, str]:
    """Says what both sides allocate with: one setting."""
    preloaded = [Path(p).name for p in os.environ.get("LD_PRELOAD", "").split() if "malloc" in p]
    own = f"preloaded {', '.join(preloaded)}" if preloaded else "the system's own settings"
    setting = "glibc, freed memory kept mapped" if kept else own
    return {"memjax": setting, "torch": setting}


def _why_alone(platform: str) -> str:
    if platform != "cpu":
        return (
            f"JAX computes on {platform} and the comparison is for the CPU, so memjax is measured "
            "alone; for the comparison: JAX_PLATFORMS=cpu memjax bench"
        )
    return torch_missing()


def _parameters(cases: Mapping[str, Any]) -> dict[str, int]:
    for case in cases.values():
        found = {name: side["parameters"] for name, side in case["sides"].items()}
        if len(set(found.values())) > 1:
            raise ValueError(f"the networks differ: {found} parameters, expected equal numbers.")
        return found
    return {}


def _measure_case(
    name: str, parts: Mapping[str, Callable[[str], tuple]], allocator: str, task: Task, peak: float
) -> dict[str, Any]:
    """Starts the sides, runs them in turn and asks each for its memory."""
    with contextlib.ExitStack() as stack:
        sides = {
            side: stack.enter_context(Worker(side, allocator, *part(name)))
            for side, part in parts.items()
        }
        for worker in sides.values():
            worker.call("prepare", name)
        ready = {side: worker.call("facts")[0] for side, worker in sides.items()}
        calls = {side: partial(worker.call, name) for side, worker in sides.items()}
        warmup, times = take_turns(calls, task.settings.repeats)
        facts = {side: worker.call("facts")[0] for side, worker in sides.items()}
        flops = sides["memjax"].call("flops", name)[0]
    found = summarize(CASES[name], task.amounts[name], warmup, times, flops, peak)
    for side, known in facts.items():
        found["sides"][side] |= known | {"ready_bytes": ready[side]["peak_bytes"]}
    return found


def run_model(
    size: str,
    config: Mapping[str, Any],
    settings: Settings,
    allocator: str,
    command: str,
    out: str | None,
) -> int:
    """Measures, prints the figures and, where asked, writes them as JSON.

    Args:
        size: What the network is called.
        config: The plain configuration.
        settings: How much is measured.
        allocator: ``keep``, ``default`` or ``both``.
        command: What to type to measure again.
        out: JSON file, or None.
    """
    check_comparable(config)
    facts = introduce()
    print(f"{size}: {amounts_words(config, settings)}")
    runs = []
    for chosen in [DEFAULT, KEEP] if allocator == BOTH else [allocator]:
        runs.append({"setting": chosen, **run_under(chosen, config, settings)})
        print("\n" + model_table(runs[-1]))
    report = {"runs": runs, "settings": settings._asdict(), "config": dict(config)}
    finish("model", size, report, command=command, facts=facts, out=out)
    return 0


def amounts_words(config: Mapping[str, Any], settings: Settings) -> str:
    """Says how much one repeat of each case is."""
    options, sampling = config["audit"]["options"], config["sampling"]
    data, noises = config["data"], options["generations"]
    amounts = {
        "train": f"training: {settings.steps} steps of {config['train']['batch_size']}",
        "sample": f"sampling: {settings.samples} in {sampling['num_steps']} steps",
        "detect": f"detection: {settings.prompts} prompts x {noises} noises",
        "mitigate": (
            f"mitigation: {settings.mitigate_prompts} prompts x {noises} noises x "
            f"{options['first_step_iters']} iterations"
        ),
    }
    said = [words for name, words in amounts.items() if name in settings.only]
    pixels = f"{data['size']} x {data['size']} pixels, float32, {settings.repeats} repeats"
    return "; ".join([pixels, *said])

"""``memjax bench --what=sd``: Stable Diffusion's network in memjax and in diffusers, in turn.

Each side lives in a process of its own, so that memory is counted apart and each can have its own
allocator; they are called in turn, so that one computes at a time. On a GPU in bfloat16, torch
eagerly and through ``torch.compile``, every side alone on the device at the batch that suits it.
"""

import importlib
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from memjax.runtime.cores import usable_cores
from memjax.tools.bench.report import finish, introduce
from memjax.tools.bench.stable_diffusion.memjax_side import SdMemjaxSide
from memjax.tools.bench.stable_diffusion.tables import gpu_table, sd_table
from memjax.tools.bench.stable_diffusion.task import SD_CASES, SdSettings, make_inputs
from memjax.tools.bench.stable_diffusion.torch_side import SdTorchSide
from memjax.tools.bench.timing import Times, is_busy, load_average, summarize
from memjax.tools.bench.torch_side import torch_missing
from memjax.tools.bench.worker import DEFAULT, KEEP, Worker

PAIRS = (1, 2, 4, 8, 16, 32)
GPU_MATMUL = 8192
MATMUL = {"sd14": 2048, "tiny": 64}


def measure_gpu(settings: SdSettings) -> dict[str, Any]:
    """Measures memjax, torch and compiled torch; memjax alone where torch has no GPU."""
    settings = settings._replace(dtype="bfloat16", pairs=max(PAIRS))
    missing = torch_missing() or _no_cuda()
    sides: dict[str, Any] = {}
    with Worker("memjax", DEFAULT, SdMemjaxSide, settings) as ours:
        flops = ours.call("pair_flops")[0] / settings.pairs
        peak = ours.call("matmul_rate", GPU_MATMUL)[0]
        sides["memjax"] = measure_side(ours, settings)
        counted = {case: ours.call("flops", case)[0] for case in ("detect", "mitigate")}
    for name, compiled in () if missing else (("torch", False), ("torch.compile", True)):
        make = (SdTorchSide, settings, usable_cores(), "cuda", compiled)
        with Worker(name, DEFAULT, *make) as theirs:
            sides[name] = measure_side(theirs, settings)
    return {
        "settings": settings._asdict(),
        "torch_missing": missing,
        "flops_per_pair": flops,
        "flops": counted,
        "matmul_flops_per_second": peak,
        "sides": sides,
        "ratios": {n: _ratios(sides["memjax"], s) for n, s in sides.items() if n != "memjax"},
    }


def measure_side(side: Worker, settings: SdSettings) -> dict[str, Any]:
    """Returns the best batch of the forward, and the seconds of detection and mitigation."""
    rates = side.call("pairs_per_second", PAIRS, settings.repeats)[0]
    best = max(rates, key=lambda pairs: rates[pairs])
    found = {"best_pairs": best, "pairs_per_second": rates[best], "rates": rates}
    for case in ("detect", "mitigate"):
        side.call("warm", case)
        times = [side.call(case)[1].wall for _ in range(settings.long_repeats)]
        found |= {f"{case}_seconds": min(times), f"raw_{case}_seconds": times}
    return found | side.call("facts")[0]


def _ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    ratios = {"forward": ours["pairs_per_second"] / theirs["pairs_per_second"]}
    for case in ("detect", "mitigate"):
        ratios[case] = theirs[f"{case}_seconds"] / ours[f"{case}_seconds"]
    return ratios


def _no_cuda() -> str:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return ""
    return "torch finds no GPU, so memjax is measured alone; for the comparison: a CUDA build of it"


class Comparison(NamedTuple):
    """Which allocator each side runs with.

    Attributes:
        title: For the table.
        memjax: memjax's setting.
        torch: torch's setting.
        only: Cases it is measured on.
    """

    title: str
    memjax: str
    torch: str
    only: tuple[str, ...]


def comparisons(allocator: str, only: tuple[str, ...]) -> dict[str, Comparison]:
    """Returns the comparisons of a setting (``keep``, ``default`` or ``both``) by name."""
    same = Comparison("freed memory kept on both sides", KEEP, KEEP, only)
    come = Comparison(
        "each as it comes: memjax keeps freed memory, torch has the system's allocator",
        KEEP,
        DEFAULT,
        tuple(case for case in only if case == "forward"),
    )
    plain = Comparison("the system's allocator on both sides", DEFAULT, DEFAULT, only)
    kept = {"same": same} | ({"as_they_come": come} if come.only else {})
    if allocator == KEEP:
        return kept
    return {"default": plain} if allocator == DEFAULT else kept | {"default": plain}


def run_sd(settings: SdSettings, allocator: str, command: str, out: str | None) -> int:
    """Measures, prints the figures and, where asked, writes them as JSON."""
    facts = introduce()
    on_gpu = jax.default_backend() == "gpu"
    report = measure_gpu(settings) if on_gpu else measure_cpu(settings, allocator)
    print("\n" + (gpu_table if on_gpu else sd_table)(report))
    size = f"{settings.size} on GPU" if on_gpu else settings.size
    finish("sd", size, report, command=command, facts=facts, out=out)
    return 0


def measure_cpu(settings: SdSettings, allocator: str) -> dict[str, Any]:
    """Runs every comparison; memjax alone, once, where torch is missing."""
    missing, planned = torch_missing(), comparisons(allocator, settings.only)
    if missing:
        planned = dict(itertools.islice(planned.items(), 1))
    runs: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for kept, group in itertools.groupby(planned.items(), key=lambda item: item[1].memjax):
        with Worker("memjax", kept, SdMemjaxSide, settings) as ours:
            facts = facts or {
                "pair_flops": ours.call("pair_flops")[0],
                "matmul_flops_per_second": ours.call("matmul_rate", MATMUL[settings.size])[0],
            }
            peak = facts["matmul_flops_per_second"]
            for name, comparison in group:
                runs[name] = _compare(ours, comparison, settings, peak, bool(missing))
    return {"settings": settings._asdict(), "torch_missing": missing, "runs": runs, **facts}


def _compare(
    ours: Worker, comparison: Comparison, settings: SdSettings, peak: float, alone: bool
) -> dict[str, Any]:
    before = load_average()
    if alone:
        cases = {case: _measure({"memjax": ours}, case, settings, peak) for case in comparison.only}
    else:
        arguments = (SdTorchSide, settings, usable_cores())
        with Worker("torch", comparison.torch, *arguments) as theirs:
            sides = {"memjax": ours, "torch": theirs}
            cases = {case: _measure(sides, case, settings, peak) for case in comparison.only}
    return {
        "allocator": comparison._asdict(),
        "cases": cases,
        "load_average": {"before": before, "after": load_average()},
        "busy": is_busy(before),
    }


def _measure(
    sides: dict[str, Worker], case: str, settings: SdSettings, peak: float
) -> dict[str, Any]:
    """Warms up, runs the sides in turn and compares what they computed."""
    warmup = {name: side.call("warm", case)[1] for name, side in sides.items()}
    repeats = settings.repeats if case == "forward" else settings.long_repeats
    times: dict[str, list[Times]] = {name: [] for name in sides}
    values: dict[str, np.ndarray] = {}
    for repeat in range(repeats):
        for name in sides if repeat % 2 == 0 else reversed(list(sides)):
            values[name], took = sides[name].call(case)
            times[name].append(took)
    amount = {"detect": settings.prompts}.get(case, 1)
    flops = sides["memjax"].call("flops", case)[0]
    found = summarize(SD_CASES[case], amount, warmup, times, flops, peak)
    for name, side in sides.items():
        found["sides"][name] |= side.call("facts")[0]
    found["difference"] = difference(case, values, settings) if len(sides) > 1 else None
    return found


def difference(
    case: str, values: dict[str, Float[np.ndarray, "..."]], settings: SdSettings
) -> float:
    """Returns how far the sides' results lie apart, relative to what they should be.

    Predictions and magnitudes: ``max |Δ|`` over their root mean square. Embeddings: the root mean
    square of Δ over that of the way from the start; AdamW's first steps divide the gradient by its
    own size, so an element whose gradient is near zero may go either way.
    """
    ours, theirs = values["memjax"], values["torch"]
    if case == "mitigate":
        start = make_inputs(settings).prompts[:1]
        return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - start))
    return float(np.abs(ours - theirs).max() / np.sqrt(np.mean(np.square(theirs))))

"""``memjax bench --what=sd`` on a GPU: bfloat16, every side at the batch that suits it best.

Torch runs eagerly and through ``torch.compile``. The sides run one after the other, each alone on
the device.
"""

import importlib
from typing import Any

from memjax.cli.bench_torch_network import torch_missing
from memjax.runtime.cores import usable_cores
from memjax.tools.bench.stable_diffusion.memjax_side import SdMemjaxSide
from memjax.tools.bench.stable_diffusion.task import SdSettings
from memjax.tools.bench.stable_diffusion.torch_side import SdTorchSide
from memjax.tools.bench.worker import DEFAULT, Worker

PAIRS = (1, 2, 4, 8, 16, 32)
MATMUL = 8192


def measure_gpu(settings: SdSettings) -> dict[str, Any]:
    """Measures memjax, torch and compiled torch; memjax alone where torch has no GPU."""
    settings = settings._replace(dtype="bfloat16", pairs=max(PAIRS))
    missing = torch_missing() or _no_cuda()
    sides: dict[str, Any] = {}
    with Worker("memjax", DEFAULT, SdMemjaxSide, settings) as ours:
        flops = ours.call("pair_flops")[0] / settings.pairs
        peak = ours.call("matmul_rate", MATMUL)[0]
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

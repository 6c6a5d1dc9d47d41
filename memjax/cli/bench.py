"""memjax bench [--only=train,detect,mitigate] [--config=phantoms_demo] [--out=FILE.json]
memjax bench --what=sd [--prompts=8] [--generations=1] [--iterations=10] [--out=FILE.json]
memjax bench --what=knn [--queries=4096] [--rows=100000] [--dim=512] [--k=10] [--out=FILE.json]

Measures memjax against the same network of diffusers' parts in eager torch, on this CPU, in one
run and in turn: training images per second; first-step detection and embedding mitigation against
plain loops that compute both halves of the guidance every time, one prompt at a time. Both sides
use the same allocator setting and number of threads. Without torch, memjax is measured alone.
With --what=sd: Stable Diffusion 1.4's network with random weights, the same in diffusers: a guided
pair, first-step detection, ten iterations of mitigation; each side in a process of its own (up to
16 GB of memory in all); on a GPU in bfloat16, against eager and compiled torch.
With --what=knn: exact nearest neighbours against faiss's exact index and scikit-learn's brute
force, and their peak memory.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.bench_knn import KnnSettings, run_knn
from memjax.cli.bench_run import run_under
from memjax.cli.bench_sd import run_sd
from memjax.cli.bench_sd_work import SD_CASES, SIZES, SdSettings
from memjax.cli.bench_timing import CASES, bench_versions, machine, usable_cores
from memjax.cli.bench_worker import DEFAULT, KEEP
from memjax.cli.bench_workload import Settings, check_comparable
from memjax.cli.configs import check_config, plain
from memjax.training.atomic import write_bytes

BOTH = "both"

DEFAULT_CONFIG = "phantoms_demo"
FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration.",
    lock_config=True,
    flag_values=FLAGS,
)
_ONLY = flags.DEFINE_list(
    "only",
    None,
    f"Which of {', '.join(CASES)}; with --what=sd of {', '.join(SD_CASES)}. Default: all.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", None, "JSON file for figures, raw times, versions and machine.", flag_values=FLAGS
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Timed repeats a side.", lower_bound=1, flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
    "steps", 8, "Training steps a repeat.", lower_bound=1, flag_values=FLAGS
)
_PROMPTS = flags.DEFINE_integer(
    "prompts",
    None,
    "Prompts a repeat of detection (default: 32; with --what=sd 8).",
    lower_bound=1,
    flag_values=FLAGS,
)
_MITIGATED = flags.DEFINE_integer(
    "mitigate_prompts", 8, "Prompts a repeat of mitigation.", lower_bound=1, flag_values=FLAGS
)
_WHAT = flags.DEFINE_enum(
    "what",
    "model",
    ["model", "sd", "knn"],
    "The demo's model, Stable Diffusion's, or nearest neighbours.",
    flag_values=FLAGS,
)
_SIZE = flags.DEFINE_enum(
    "size", "sd14", list(SIZES), "With --what=sd: the network; tiny is a trial.", flag_values=FLAGS
)
_SD = {
    name: flags.DEFINE_integer(
        name, SdSettings._field_defaults[name], help, lower_bound=1, flag_values=FLAGS
    )
    for name, help in {
        "generations": "With --what=sd: initial noises a prompt.",
        "iterations": "With --what=sd: updates of the embedding.",
        "chunk": "With --what=sd: prompts a call of memjax's detection.",
        "long_repeats": "With --what=sd: timed repeats of detection and mitigation.",
    }.items()
}
_KNN = {
    name: flags.DEFINE_integer(
        name, KnnSettings._field_defaults[name], help, lower_bound=1, flag_values=FLAGS
    )
    for name, help in {
        "queries": "With --what=knn: rows searched for.",
        "rows": "With --what=knn: rows of the database.",
        "dim": "With --what=knn: values a row.",
        "k": "With --what=knn: neighbours.",
    }.items()
}
_ALLOCATOR = flags.DEFINE_enum(
    "allocator",
    KEEP,
    [KEEP, DEFAULT, BOTH],
    "keep: freed memory stays mapped, as in every memjax command, for torch as well; default: the "
    "system's own settings for both sides; both: one after the other.",
    flag_values=FLAGS,
)


def _cases(names: list[str] | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    names = list(known) if names is None else names
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"--only={name} is unknown, expected {', '.join(known)}.{hint}")
    if not names:
        raise ValueError(f"--only is empty, expected some of {', '.join(known)}.")
    return tuple(dict.fromkeys(names))


def main() -> int:
    """Runs the command."""
    if _WHAT.value == "knn":
        sizes = {name: int(flag.value or 1) for name, flag in _KNN.items()}
        return run_knn(KnnSettings(**sizes, repeats=_REPEATS.value), _OUT.value)
    if _WHAT.value == "sd":
        return run_sd(_sd_settings(), _ALLOCATOR.value, _OUT.value)
    config = plain(_CONFIG.value)
    check_config(config)
    check_comparable(config)
    cases, prompts = _cases(_ONLY.value, CASES), _PROMPTS.value or 32
    settings = Settings(cases, _REPEATS.value, _STEPS.value, prompts, _MITIGATED.value)
    chosen = [DEFAULT, KEEP] if _ALLOCATOR.value == BOTH else [_ALLOCATOR.value]
    facts = machine()
    print(f"{facts['processor']}, {facts['platform']}: {usable_cores()} threads on each side")
    runs = []
    for allocator in chosen:
        runs.append({"setting": allocator, **run_under(allocator, config, settings)})
        print("\n" + table(runs[-1]))
    if _OUT.value:
        report = {
            "runs": runs,
            "settings": settings._asdict(),
            "threads": {"memjax": usable_cores(), "torch": usable_cores()},
            "machine": facts,
            "versions": bench_versions(),
            "config": config,
        }
        text = json.dumps(report, indent=1, sort_keys=True) + "\n"
        print(f"\nall times: {write_bytes(_OUT.value, text.encode())}")
    return 0


def _sd_settings() -> SdSettings:
    numbers: dict[str, Any] = {name: flag.value for name, flag in _SD.items()}
    return SdSettings(
        size=_SIZE.value,
        only=_cases(_ONLY.value, SD_CASES),
        repeats=_REPEATS.value,
        prompts=_PROMPTS.value or 8,
        **numbers,
    )


def table(run: Mapping[str, Any]) -> str:
    """Returns the figures of one run as text."""
    parameters, load = run["parameters"], run["load_average"]
    lines = [
        f"{parameters['memjax'] / 1e6:.2f} M parameters; allocator on both sides: "
        f"{run['allocator']['memjax']}; load average {load['before']} before, {load['after']} after"
    ]
    if run["busy"]:
        lines.append(
            "THE MACHINE WAS BUSY: torch's threads wait for each other and suffer more from other "
            "work than XLA's, so these ratios may flatter memjax; measure again when it is idle"
        )
    if run["torch_missing"]:
        lines.append(run["torch_missing"])
    lines.append(f"{'':<22}{'memjax':>10}{'torch':>10}  {'unit':<10} memjax is faster by")
    for name, case in run["cases"].items():
        sides = case["sides"]
        torch = f"{sides['torch']['median']:.4g}" if "torch" in sides else "-"
        line = f"{CASES[name].title:<22}{sides['memjax']['median']:>10.4g}{torch:>10}"
        line += f"  {case['unit']:<10} {_ratio(case)}"
        lines.append(line.rstrip())
    lines += [f"{CASES[n].title}: {_footnote(c)}" for n, c in run["cases"].items()]
    return "\n".join(lines)


def _ratio(case: Mapping[str, Any]) -> str:
    if case["ratio"] is None:
        return ""
    return f"{case['ratio']:.2f}x ({case['ratio_low']:.2f} to {case['ratio_high']:.2f})"


def _footnote(case: Mapping[str, Any]) -> str:
    """Says what is not in the figures: first runs, processor time, the rate of arithmetic."""
    sides = case["sides"]
    warmup = ", ".join(f"{n} {s['warmup_seconds']:.1f} s" for n, s in sides.items())
    cpu = ", ".join(f"{n} {s['median_cpu_seconds']:.2f} s" for n, s in sides.items())
    ratio = f" ({case['cpu_ratio']:.2f}x)" if case["ratio"] is not None else ""
    rate = sides["memjax"].get("gflop_per_second")
    text = f"first run, with compilation, left out: {warmup}; processor time a repeat: {cpu}{ratio}"
    return text + (f"; memjax {rate:.1f} GFLOP/s" if rate else "")

"""The figures of the model's cases as text."""

from collections.abc import Mapping
from typing import Any

from memjax.tools.bench.compile_time import TARGETS
from memjax.tools.bench.task import COMPILE

_MIB = 2**20
BUSY_WARNING = (
    "THE MACHINE WAS BUSY: torch's threads wait for each other and suffer more from other work "
    "than XLA's, so these ratios may flatter memjax; measure again when it is idle"
)


def model_table(run: Mapping[str, Any]) -> str:
    """Returns the figures of one run as text."""
    lines = [heading(run)]
    if run["busy"]:
        lines.append(BUSY_WARNING)
    if run["torch_missing"]:
        lines.append(run["torch_missing"])
    if run["cases"]:
        lines.append(
            f"{'':<22}{'memjax':>10}{'torch':>10}  {'unit':<11}{'memjax is faster by':<25}"
            f"{'CPU time':>9}{'TFLOP/s':>14}{'of peak':>12}{'peak MiB':>14}"
        )
    lines += [_line(case) for case in run["cases"].values()]
    lines += [f"{case['title']}: {_footnote(case)}" for case in run["cases"].values()]
    if run["cases"] and not run["torch_missing"]:
        lines.append("TFLOP/s of both sides: the operations of memjax's program over their time")
    if run[COMPILE]:
        lines += ["", *_compile_lines(run[COMPILE])]
    return "\n".join(lines)


def heading(run: Mapping[str, Any]) -> str:
    """Says what a run's figures stand on: weights, allocator, other work, the measured peak."""
    load, peak = run["load_average"], run["peak"]
    weights = run["parameters"].get("memjax")
    size = f"{weights / 1e6:.2f} M parameters; " if weights else ""
    return (
        f"{size}allocator on both sides: {run['allocator']['memjax']}; load average "
        f"{load['before']} before, {load['after']} after; peak "
        f"{peak['flops_per_second'] / 1e12:.3f} TFLOP/s ({peak['source']})"
    )


def ratio_words(case: Mapping[str, Any]) -> str:
    """Says how many times faster memjax is, with the extremes of the repeats."""
    if case["ratio"] is None:
        return ""
    return f"{case['ratio']:.2f}x ({case['ratio_low']:.2f} to {case['ratio_high']:.2f})"


def figure(value: float | None) -> str:
    """Returns a number with four digits that count, without an exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _line(case: Mapping[str, Any]) -> str:
    sides = case["sides"].values()
    ours, torch = case["sides"]["memjax"], case["sides"].get("torch")
    rates = " / ".join(f"{side['tflop_per_second']:.3f}" for side in sides)
    shares = " / ".join(f"{side['of_peak']:.0%}" for side in sides)
    memory = " / ".join(mebibytes(side["peak_bytes"]) for side in sides)
    cpu = "" if case["ratio"] is None else f"{case['cpu_ratio']:.2f}x"
    return (
        f"{case['title']:<22}{figure(ours['median']):>10}"
        f"{figure(torch['median'] if torch else None):>10}  {case['unit']:<11}"
        f"{ratio_words(case):<25}{cpu:>9}{rates:>14}{shares:>12}{memory:>14}"
    )


def mebibytes(count: int | None) -> str:
    """Returns a number of bytes in MiB."""
    return "-" if count is None else f"{count / _MIB:,.0f}"


def _footnote(case: Mapping[str, Any]) -> str:
    """Says what is not in the figures: first runs, processor time, memory before the case."""
    sides = case["sides"].items()
    warmup = ", ".join(f"{n} {s['warmup_seconds']:.1f} s" for n, s in sides)
    cpu = ", ".join(f"{n} {s['median_cpu_seconds']:.2f} s" for n, s in sides)
    ready = ", ".join(f"{n} {mebibytes(s['ready_bytes'])} MiB" for n, s in sides)
    return (
        f"first run, with compilation, left out: {warmup}; processor time a repeat: {cpu}; memory "
        f"before it (libraries, weights, inputs): {ready}"
    )


def _compile_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "from the first call to the first result, in a fresh process, memjax alone",
        f"{'':<22}{'cold':>10}{'cached':>10}  {'unit':<11}{'processor time':<20}second call",
    ]
    for name, calls in found.items():
        cold, cached = calls["cold"], calls["cached"]
        cpu = f"{cold['cpu_seconds']:.2f} / {cached['cpu_seconds']:.2f}"
        lines.append(
            f"{TARGETS[name]:<22}{cold['seconds']:>10.2f}{cached['seconds']:>10.2f}  {'s':<11}"
            f"{cpu:<20}{cached['second_call_seconds']:.2f}"
        )
    return lines

"""The figures of ``memjax bench --what=sd`` as text."""

from collections.abc import Mapping
from typing import Any

from memjax.tools.bench.stable_diffusion.task import SD_CASES

_GIB = 2**30


def sd_table(report: Mapping[str, Any]) -> str:
    """Returns the figures of a run on CPU."""
    settings, runs = report["settings"], report["runs"]
    first = next(iter(runs.values()))
    parameters = next(iter(first["cases"].values()))["sides"]["memjax"]["parameters"]
    lines = [
        f"{settings['size']}, {parameters / 1e6:.1f} M parameters, {settings['dtype']}; "
        f"{settings['prompts']} prompts x {settings['generations']} noises, "
        f"{settings['iterations']} iterations; a pair is {report['pair_flops'] / 1e9:,.0f} GFLOP; "
        f"measured peak of a product {report['matmul_flops_per_second'] / 1e12:.3f} TFLOP/s"
    ]
    if report["torch_missing"]:
        lines.append(report["torch_missing"])
    for run in runs.values():
        lines += ["", *_run(run, report)]
    return "\n".join(lines)


def _run(run: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    load = run["load_average"]
    title = run["allocator"]["title"]
    lines = [f"{title}; load average {load['before']} before, {load['after']} after"]
    if run["busy"]:
        lines.append("THE MACHINE WAS BUSY: look at the ratio of processor times")
    lines.append(
        f"{'':<26}{'memjax':>9}{'torch':>9}  {'memjax is faster by':<24}{'CPU time':>9}{'apart':>9}"
    )
    for name, case in run["cases"].items():
        lines.append(_line(name, case))
    for name, case in run["cases"].items():
        lines.append(f"{SD_CASES[name].title}: {_footnote(case)}")
    return lines


def _line(name: str, case: Mapping[str, Any]) -> str:
    sides = case["sides"]
    ours = f"{sides['memjax']['median_seconds']:.2f} s"
    line = f"{SD_CASES[name].title:<26}{ours:>9}"
    if case["ratio"] is None:
        return line
    theirs = f"{sides['torch']['median_seconds']:.2f} s"
    ratio = f"{case['ratio']:.2f}x ({case['ratio_low']:.2f} to {case['ratio_high']:.2f})"
    return f"{line}{theirs:>9}  {ratio:<24}{case['cpu_ratio']:>8.2f}x{case['difference']:>9.0e}"


def _footnote(case: Mapping[str, Any]) -> str:
    parts = []
    for side, found in case["sides"].items():
        text = f"{side} warm-up {found['warmup_seconds']:.1f} s, "
        text += f"{found['tflop_per_second']:.3f} TFLOP/s ({found['of_peak']:.0%} of peak)"
        if found["peak_bytes"]:
            text += f", peak memory so far {found['peak_bytes'] / _GIB:.2f} GiB"
        parts.append(text)
    return "; ".join(parts)


def gpu_table(report: Mapping[str, Any]) -> str:
    """Returns the figures of a run on a GPU: each side at its best batch."""
    peak = report["matmul_flops_per_second"]
    lines = [
        f"{report['settings']['size']}, {report['settings']['dtype']}; measured peak of a product "
        f"{peak / 1e12:.0f} TFLOP/s",
        f"{'':<16}{'pairs':>6}{'pairs/s':>9}{'TFLOP/s':>9}{'of peak':>9}{'detect':>10}"
        f"{'mitigate':>10}{'memory':>11}",
    ]
    for name, side in report["sides"].items():
        rate = side["pairs_per_second"] * report["flops_per_pair"]
        lines.append(
            f"{name:<16}{side['best_pairs']:>6}{side['pairs_per_second']:>9.2f}{rate / 1e12:>9.1f}"
            f"{rate / peak:>9.0%}{side['detect_seconds']:>8.2f} s{side['mitigate_seconds']:>8.2f} s"
            f"{side['peak_bytes'] / _GIB:>7.1f} GiB"
        )
    for name, ratios in report["ratios"].items():
        said = ", ".join(f"{case} {value:.2f}x" for case, value in ratios.items())
        lines.append(f"memjax is faster than {name} by: {said}")
    if report["torch_missing"]:
        lines.append(report["torch_missing"])
    return "\n".join(lines)

"""The report of `memjax fit` as text."""

from collections.abc import Mapping
from typing import Any

from memjax.core.chips import GIB


def gib(count: float | None) -> str:
    """Returns bytes in GiB, or a dash."""
    return "-" if count is None else f"{count / GIB:.2f} GiB"


def amount(count: float, unit: str) -> str:
    """Returns a number with the prefix it is read best with."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """Returns a time in s, ms or µs."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def table(report: Mapping[str, Any]) -> str:
    """Returns the whole report as text."""
    lines = [*_head(report), *_memory(report)]
    if "flops" in report and report["flops"] is not None:
        lines += [*_times(report), *_exchanges(report)]
    lines += [*_rules(report), *_largest(report), report["note"]]
    return "\n".join(lines)


def _head(report: Mapping[str, Any]) -> list[str]:
    mesh = " x ".join(f"{name} {size}" for name, size in report["mesh"].items())
    slices = f" x {report['slices']} slices" if report["slices"] > 1 else ""
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    return [
        f"{report['config']}, {report['job']}, on {report['topology']}{slices}: "
        f"{report['devices']} {report['chip']['name']} chips ({mesh}), {report['batch']} "
        f"{report['rows']}: {verdict}",
        f"{report['network']}; {report['parameters'] / 1e6:.1f} M trained weights"
        if report["job"] == "train"
        else f"{report['network']}; {report['parameters'] / 1e6:.1f} M weights",
    ]


def _memory(report: Mapping[str, Any]) -> list[str]:
    memory = report["memory"]
    if not report["fits"]:
        return [
            f"memory a chip: needs {gib(memory['total'])} of {gib(memory['limit'])} "
            f"(the compiler: {report['refusal']})"
        ]
    kinds = ("arguments", "outputs", "aliased", "temporaries", "code")
    parts = ", ".join(f"{kind} {gib(memory[kind])}" for kind in kinds)
    return [f"memory a chip: {gib(memory['total'])} of {gib(memory['limit'])} ({parts})"]


def _noun(report: Mapping[str, Any]) -> str:
    return report["rows"].split()[0]


def _times(report: Mapping[str, Any]) -> list[str]:
    times, ridge = report["roofline"], report["chip"]["ridge"]
    parts = ("compute", "memory", "links", "network")
    shown = ", ".join(f"{part} {duration(times[part])}" for part in parts if times[part])
    side = "above" if report["intensity"] > ridge else "below"
    source = "traced, loops run out" if report["loops"] else "the compiler's count"
    lines = [
        f"a chip and run: {amount(report['flops'], 'FLOP')} ({source}), "
        f"{amount(report['bytes_accessed'], 'B')} of memory; intensity "
        f"{report['intensity']:.0f} FLOP/B, {side} the ridge of {ridge:.0f}",
        f"roofline: {duration(report['roofline_seconds'])} ({report['bound']}), "
        f"{duration(times['serial'])} if nothing overlaps ({shown})",
        f"so at best about {report['rows_per_second']:.4g} {_noun(report)} a second, "
        f"{100 * report['mfu']:.0f} % of the chips' peak",
    ]
    if report["optimal_seconds"]:
        once = ", a loop's body counted once" if report["loops"] else ""
        lines.append(f"the compiler's own estimate{once}: {duration(report['optimal_seconds'])}")
    return lines


def _exchanges(report: Mapping[str, Any]) -> list[str]:
    lines = ["exchanges a run:"]
    lines.append(
        f"  {'kind':<19}{'count':>6}{'whole':>10}{'taken in':>10}{'weights':>10}{'activ.':>10}"
    )
    for kind, row in report["collectives"].items():
        lines.append(
            f"  {kind:<19}{row['count']:>6}{amount(row['bytes'], 'B'):>10}"
            f"{amount(row['received'], 'B'):>10}{amount(row['weights_bytes'], 'B'):>10}"
            f"{amount(row['activations_bytes'], 'B'):>10}"
        )
    if not report["collectives"]:
        lines = ["exchanges a run: none"]
    lines += [
        f"  {row['kind']} of {amount(row['bytes'], 'B')}, {row['moves']}: "
        f"{', '.join(row['largest'])}{' ...' if row['arrays'] > 3 else ''} {row['operation']}"
        for row in report["largest_collectives"][:5]
    ]
    if report["collectives"].get("collective-permute", {}).get("weights_bytes"):
        lines.append("  (permutations of weights: sums and gathers run beside the products)")
    gathers = report["activation_gathers"]
    if gathers["count"]:
        first = gathers["largest"][0]
        lines.append(
            f"ACTIVATIONS ARE GATHERED: {gathers['count']} exchanges, "
            f"{amount(gathers['bytes'], 'B')}; the first {', '.join(first['largest'])} "
            f"{first['operation']}"
        )
    else:
        lines.append("no activations are gathered")
    return lines


def _rules(report: Mapping[str, Any]) -> list[str]:
    lines = ["what lies where:"]
    lines += [
        f"  {row['rule']}: {row['leaves']} leaves, {amount(row['bytes'], 'B')}, "
        f"{amount(row['bytes_per_device'], 'B')} a chip (such as {row['example']})"
        for row in report["rules"]
    ]
    if report["unused_rules"]:
        lines.append(f"  rules without a leaf: {', '.join(report['unused_rules'])}")
    return lines


def _largest(report: Mapping[str, Any]) -> list[str]:
    largest = report["largest_batch"]
    if largest is None:
        return []
    if not largest["batch"]:
        return [f"no batch was found that fits, down to {largest['refused']}"]
    refused = largest["refused"]
    until = "" if refused is None else f"; {refused} does not"
    exact = "" if largest["exact"] else f" ({largest['compiles']} compilations; not narrowed down)"
    return [f"largest batch seen to fit: {largest['batch']}{until}{exact}"]

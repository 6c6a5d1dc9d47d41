"""The tables of ``memjax bench --table``: one Markdown row a case."""

from collections.abc import Mapping, Sequence
from typing import Any

from memjax.tools.bench.compile_time import TARGETS
from memjax.tools.bench.tables import figure, mebibytes, ratio_words

_NONE = "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a Markdown table; all columns but the first two are aligned right."""
    rules = ["---" if column < 2 else "---:" for column in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)]


def case_table(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the table of measured cases, memjax beside torch."""
    head = (
        "case",
        "unit",
        "memjax",
        "torch",
        "ratio (range)",
        "CPU-time ratio",
        "memjax TFLOP/s",
        "% of peak",
        "peak memory, MiB: memjax",
        "torch",
    )
    return table(head, [_case_row(case) for case in cases])


def _case_row(case: Mapping[str, Any]) -> list[str]:
    ours, theirs = case["sides"]["memjax"], case["sides"].get("torch")
    return [
        case["title"],
        case["unit"],
        figure(ours["median"]),
        figure(theirs["median"]) if theirs else _NONE,
        ratio_words(case) or _NONE,
        _NONE if case["ratio"] is None else f"{case['cpu_ratio']:.2f}x",
        f"{ours['tflop_per_second']:.3f}",
        f"{100 * ours['of_peak']:.0f}",
        mebibytes(ours["peak_bytes"]),
        mebibytes(theirs["peak_bytes"]) if theirs else _NONE,
    ]


def compile_table(found: Mapping[str, Any]) -> list[str]:
    """Returns the table of first calls, in the order of :data:`TARGETS`."""
    head = ("first call to first result, memjax", "unit", "cold", "cached", "second call")
    rows = [
        [
            title,
            "s",
            *(f"{found[name][kind]['seconds']:.2f}" for kind in ("cold", "cached")),
            f"{found[name]['cached']['second_call_seconds']:.2f}",
        ]
        for name, title in TARGETS.items()
        if name in found
    ]
    return table(head, rows)


def gpu_tables(report: Mapping[str, Any]) -> list[str]:
    """Returns a table of every side on a GPU, each at its best batch, and the ratios."""
    head = (
        "side",
        "pairs a call",
        "pairs/s",
        "TFLOP/s",
        "% of peak",
        "detection, s",
        "mitigation, s",
        "peak memory, MiB",
    )
    rows = []
    for name, side in report["sides"].items():
        rate = side["pairs_per_second"] * report["flops_per_pair"]
        rows.append(
            [
                name,
                str(side["best_pairs"]),
                f"{side['pairs_per_second']:.2f}",
                f"{rate / 1e12:.1f}",
                f"{100 * rate / report['matmul_flops_per_second']:.0f}",
                f"{side['detect_seconds']:.2f}",
                f"{side['mitigate_seconds']:.2f}",
                mebibytes(side["peak_bytes"]),
            ]
        )
    lines = ["", *table(head, rows)]
    for name, ratios in report["ratios"].items():
        said = ", ".join(f"{case} {value:.2f}x" for case, value in ratios.items())
        lines += ["", f"memjax is faster than {name} by: {said}."]
    return lines


def knn_table(report: Mapping[str, Any]) -> list[str]:
    """Returns the table of exact nearest neighbours, one row a library."""
    head = (
        "library",
        "unit",
        "rate",
        "memjax is faster by (range)",
        "CPU-time ratio",
        "TFLOP/s",
        "% of peak",
        "peak memory, MiB",
    )
    size, peak = report["settings"], report["peak"]["flops_per_second"]
    names = ["memjax", *(name for name in report["sides"] if name != "memjax")]
    rows = []
    for name in names:
        rate, ratio = report["sides"][name]["queries_per_second"], report["ratios"].get(name)
        flops = 2.0 * size["rows"] * size["dim"] * rate
        rows.append(
            [
                name,
                "queries/s",
                figure(rate),
                ratio_words(ratio) if ratio else _NONE,
                f"{ratio['cpu_ratio']:.2f}x" if ratio else _NONE,
                f"{flops / 1e12:.3f}",
                f"{100 * flops / peak:.0f}",
                mebibytes(report["peak_bytes"].get(name)),
            ]
        )
    return table(head, rows)

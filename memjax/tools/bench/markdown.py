"""Reports of ``memjax bench`` as one Markdown file with a section a size and a row a case."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.runtime.files import write_bytes
from memjax.tools.bench.compile_time import TARGETS
from memjax.tools.bench.run import amounts_words
from memjax.tools.bench.tables import BUSY_WARNING, figure, heading, mebibytes, ratio_words
from memjax.tools.bench.task import COMPILE, Settings

_NONE = "–"
_INTRODUCTION = """# Benchmarks

Written by `memjax bench --table=FILE.json --out=tests/benchmarks.md`: what `memjax bench` measured.

*Ratio*: how many times faster memjax is, median over median of wall time, with the extremes of the
repeats. *CPU-time ratio*: the same of processor time, which other work touches less. *TFLOP/s* and
*% of peak*: the operations of memjax's program, loops in full, over the median time; the peak is
that of one plain product, or the maker's. *Peak memory*: of a process of its own, libraries
included; on a GPU, device memory. Sections may come from different machines.
"""
_ORDER = ("demo", "chexpert-128", "sd14", "sd14 on GPU", "knn")


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
    """Returns the table of exact nearest neighbors, one row a library."""
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


def is_tables(path: str) -> bool:
    """Returns whether a file is one of :func:`write_tables`, whose other sections stay."""
    file = Path(path)
    return file.is_file() and _INTRODUCTION.splitlines()[2] in _text(file)


def write_tables(paths: Sequence[str], out: str | None) -> str:
    """Writes a section for every report; those of other sizes already in the file stay.

    Args:
        paths: JSON files of ``memjax bench --out``.
        out: The Markdown file.

    Returns:
        Where it was written.

    Raises:
        ValueError: A file is missing or no report, two are of one size, or ``out`` is missing or
            no text.
    """
    if not out:
        raise ValueError("--table has no --out, expected a Markdown file: --out=benchmarks.md.")
    made: dict[str, str] = {}
    for path in paths:
        size, text = _section(path)
        if size in made:
            raise ValueError(f"{path} is a second report of {size}, expected one a size.")
        made[size] = text
    file = Path(out)
    kept = read_sections(_text(file)) if file.is_file() else {}
    sections = kept | made
    names = [n for n in _ORDER if n in sections] + sorted(set(sections) - set(_ORDER))
    whole = "\n".join([_INTRODUCTION, *(sections[name] for name in names)])
    return str(write_bytes(file, whole.encode()))


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--out={file} is there and is no text, expected a Markdown file or a new name."
        ) from error


def read_sections(text: str) -> dict[str, str]:
    """Returns the sections of a file of tables by their headings, in order."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0].strip(): f"## {part.rstrip()}\n" for part in parts}


def _section(path: str) -> tuple[str, str]:
    """Returns the size of a report and its section."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path!r}, expected one of memjax bench --out.")
    try:
        report = json.loads(Path(path).read_bytes())
        return report["size"], section_of(report)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no report of memjax bench ({type(error).__name__}: {error}), expected JSON "
            "of memjax bench --out: measure again."
        ) from error


def section_of(report: Mapping[str, Any]) -> str:
    """Returns the section of one report: machine, versions, command, then its tables."""
    machine, versions = report["machine"], report["versions"]
    libraries = ", ".join(f"{n} {v}" for n, v in versions.items() if v != "not installed")
    device = _device(report)
    lines = [
        f"## {report['size']}",
        "",
        f"{machine['processor']}, {machine['platform']}{device}, {machine['usable_cores']} threads "
        f"a side; {report['date']}; {libraries}.",
        "",
        f"`{report['command']}`",
    ]
    bodies = {"model": _model, "sd": _sd, "knn": _knn}
    return "\n".join([*lines, *bodies[report["kind"]](report)]) + "\n"


def _device(report: Mapping[str, Any]) -> str:
    if report["kind"] == "sd" and "runs" not in report:
        return f", {report['sides']['memjax']['device']}"
    return ""


def _warnings(run: Mapping[str, Any]) -> list[str]:
    said = [f"**{BUSY_WARNING}.**"] if run.get("busy") else []
    said += [f"{run['torch_missing']}."] if run.get("torch_missing") else []
    return [line for words in said for line in ("", words)]


def _model(report: Mapping[str, Any]) -> list[str]:
    settings = Settings(**{**report["settings"], "only": tuple(report["settings"]["only"])})
    lines = ["", f"{amounts_words(report['config'], settings)}."]
    for run in report["runs"]:
        lines += ["", f"{heading(run)}.", *_warnings(run)]
        if run["cases"]:
            lines += ["", *case_table(_in_order(run["cases"], settings.only))]
        if run[COMPILE]:
            lines += ["", *compile_table(run[COMPILE])]
    return lines


def _sd(report: Mapping[str, Any]) -> list[str]:
    settings, peak = report["settings"], report["matmul_flops_per_second"] / 1e12
    lines = [
        "",
        f"{settings['dtype']}; {settings['prompts']} prompts x {settings['generations']} noises, "
        f"{settings['iterations']} iterations; peak {peak:,.3f} TFLOP/s, a measured product.",
    ]
    if "runs" not in report:
        return [*lines, *_warnings(report), *gpu_tables(report)]
    for run in report["runs"].values():
        load = run["load_average"]
        said = f"{run['allocator']['title']}; load average {load['before']} before, {load['after']}"
        lines += ["", f"{said} after.".capitalize(), *_warnings(run | _missing(report))]
        lines += ["", *case_table(_in_order(run["cases"], settings["only"]))]
    return lines


def _missing(report: Mapping[str, Any]) -> dict[str, str]:
    return {"torch_missing": report["torch_missing"]}


def _knn(report: Mapping[str, Any]) -> list[str]:
    settings, load = report["settings"], report["load_average"]
    return [
        "",
        f"{settings['queries']:,} queries x {settings['rows']:,} rows x {settings['dim']} values, "
        f"k = {settings['k']}; {settings['repeats']} repeats; load average {load['before']} "
        f"before, {load['after']} after; peak {report['peak']['flops_per_second'] / 1e12:.3f} "
        f"TFLOP/s ({report['peak']['source']}).",
        *_warnings({**report, "torch_missing": report["missing"]}),
        "",
        *knn_table(report),
    ]


def _in_order(cases: Mapping[str, Any], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Returns the cases as they were asked for: JSON has sorted them."""
    return [cases[name] for name in names if name in cases]

"""Reports of ``memjax bench`` as one Markdown file with a section a size."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.cli.bench_markdown_rows import case_table, compile_table, gpu_tables, knn_table
from memjax.cli.bench_model import amounts_words
from memjax.runtime.files import write_bytes
from memjax.tools.bench.tables import BUSY_WARNING, heading
from memjax.tools.bench.task import COMPILE, Settings

_INTRODUCTION = """# Benchmarks

Written by `memjax bench --table=FILE.json --out=tests/benchmarks.md`: what `memjax bench` measured.

*Ratio*: how many times faster memjax is, median over median of wall time, with the extremes of the
repeats. *CPU-time ratio*: the same of processor time, which other work touches less. *TFLOP/s* and
*% of peak*: the operations of memjax's program, loops in full, over the median time; the peak is
that of one plain product, or the maker's. *Peak memory*: of a process of its own, libraries
included; on a GPU, device memory. Sections may come from different machines.
"""
_ORDER = ("demo", "chexpert-128", "sd14", "sd14 on GPU", "knn")


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

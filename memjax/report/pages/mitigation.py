"""``mitigation.html``: what a repair gained and cost, in a table, a curve and images."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.evaluate.statistics.bootstrap import Interval
from memjax.report.charts.tradeoff import measure_title, tradeoff_figure, tradeoff_table
from memjax.report.files import FOLDER, file_names, publish
from memjax.report.pages.base import page_environment
from memjax.report.sections import data_uri, width_of
from memjax.report.wording import decimal, percent
from memjax.runtime.json import to_plain
from memjax.studies.mitigation.records import BASELINE, BEFORE, REPAIRS, ArmSummary, Record

PAGE, CURVE = "mitigation.html", "tradeoff"
_MOST_ROWS = 200


class RepairStudy(NamedTuple):
    """All that a page shows.

    Attributes:
        model: Name of the model.
        generations: Images a prompt and arm.
        summaries: One an arm, ``before`` first.
        records: One a prompt and arm.
        names: Measure → weights and preprocessing.
        method: How the repair was set, name → value.
        notes: Sentences on what was not measured, or what the reader must know.
        provenance: What made it.
    """

    model: str
    generations: int
    summaries: Sequence[ArmSummary]
    records: Sequence[Record]
    names: Mapping[str, str]
    method: Mapping[str, Any]
    notes: Sequence[str]
    provenance: Mapping[str, Any]


def write_repair_page(
    out_dir: str | os.PathLike[str], study: RepairStudy, walls: Sequence[bytes]
) -> Path:
    """Writes ``mitigation.html`` and ``figures/`` with the curve's CSV; all together or none.

    Args:
        out_dir: Folder, made if missing.
        study: What was measured.
        walls: Images of prompts before and after, as PNG bytes.
    """
    curve = tradeoff_figure(study.summaries, study.names)
    figures = {} if curve is None else {CURVE: curve}
    figures |= {f"wall-{number}": png for number, png in enumerate(walls, 1)}
    tables = {CURVE: tradeoff_table(study.summaries)}
    page = render_repair_page(study, figures, walls)
    return publish(out_dir, {PAGE: page}, figures, tables)[PAGE]


def render_repair_page(
    study: RepairStudy, figures: Mapping[str, bytes], walls: Sequence[bytes]
) -> str:
    """Returns the page; every text is escaped and every image is inside it."""
    keys = list(dict.fromkeys(key for s in study.summaries for key in s.likeness))
    curve = figures.get(CURVE)
    name = file_names([CURVE])[CURVE]
    return (
        page_environment()
        .get_template("mitigation.html.j2")
        .render(
            model=study.model,
            sentences=repair_sentences(study),
            arms=[_arm_row(s, keys) for s in study.summaries],
            measures=[(measure_title(key), study.names.get(key, key)) for key in keys],
            clip=study.names.get("clip"),
            curve=None if curve is None else (data_uri(curve), width_of(curve)),
            curve_data=f"{FOLDER}/{name}.csv",
            walls=[(data_uri(png), width_of(png)) for png in walls],
            rows=[_prompt_row(row, keys) for row in study.records[:_MOST_ROWS]],
            hidden=max(len(study.records) - _MOST_ROWS, 0),
            generations=study.generations,
            method=to_plain(dict(study.method)),
            notes=study.notes,
            provenance=to_plain(dict(study.provenance)),
        )
    )


def repair_sentences(study: RepairStudy) -> list[str]:
    """Returns the findings in a few sentences, each with its figures."""
    before = next(s for s in study.summaries if s.arm.kind == BEFORE)
    repairs = [s for s in study.summaries if s.arm.kind in REPAIRS]
    out = [
        f"{before.prompts} prompt{'s' if before.prompts != 1 else ''}, {study.generations} "
        "images each, from the same draws of initial noise before and after."
    ]
    for key in before.likeness:
        changed = [s for s in repairs if key in s.likeness]
        if changed:
            best = min(changed, key=lambda s: s.likeness[key].value)
            out.append(
                f"{measure_title(key)} to the training images: {_text(before.likeness[key])} as "
                f"asked; the least of the repairs, {best.arm.title}: {_text(best.likeness[key])}."
            )
    scored = [(s.clip.value, _text(s.clip, 3), s.arm.title) for s in repairs if s.clip]
    if before.clip is not None and scored:
        _, said, title = min(scored)
        out.append(
            f"CLIP score with the prompt as it was asked: {_text(before.clip, 3)} before; the "
            f"least of the repairs, {title}: {said}."
        )
    return out + [
        f"Magnitude along the trajectory: {_text(before.magnitude)} as asked, "
        f"{_text(s.magnitude)} with {s.arm.title}."
        for s in repairs[-1:]
    ]


def _text(interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return "–"
    low, high = decimal(interval.low, digits), decimal(interval.high, digits)
    return f"{decimal(interval.value, digits)} ({low} to {high})"


def _cell(interval: Interval | None, digits: int = 2) -> tuple[str, str]:
    """A figure and the range below it."""
    value, _, between = _text(interval, digits).partition(" (")
    return value, between.removesuffix(")")


def _arm_row(s: ArmSummary, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "title": s.arm.title,
        "baseline": s.arm.kind == BASELINE,
        "updates": "–" if s.iterations is None else decimal(s.iterations, 1),
        "reached": "–" if s.reached is None else percent(s.reached),
        "statistic": _cell(s.statistic),
        "figures": [
            _cell(s.magnitude),
            *(_cell(s.likeness.get(key)) for key in keys),
            *([_cell(s.clip, 3)] if s.clip is not None else []),
        ],
    }


def _prompt_row(row: Record, keys: Sequence[str]) -> dict[str, Any]:
    def likeness(key: str) -> str:
        found = row.get("likeness", {}).get(key)
        if not found:
            return "–"
        ends = f"{decimal(found['min'])} to {decimal(found['max'])}"
        return f"{decimal(found['mean'])} ({ends})"

    return {
        "id": row["id"],
        "caption": row.get("asked", ""),
        "arm": row["title"],
        "updates": row.get("iterations"),
        "magnitude": decimal(row["magnitude"]),
        "likeness": [likeness(key) for key in keys],
        "clip": decimal(row["clip"]["mean"], 3) if row.get("clip") else "–",
    }

"""One self-contained page that says what a sweep asked, expected and found."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.report.charts.factor import arm_dots, factor_lines, training_panels
from memjax.report.files import FOLDER, Table, csv_text, file_names, publish
from memjax.report.pages.base import page_environment
from memjax.report.sections import data_uri, width_of
from memjax.report.wording import decimal, interval, is_share, metric_title, percent
from memjax.runtime.json import to_plain
from memjax.studies.sweep.table import (
    Row,
    SweepArm,
    arms_of,
    long_table,
    measured,
    metric_table,
    metrics_of,
    seeds_of,
    summary_of,
)

PAGES = ("sweep.html", "sweep.csv")
_RUNG = "spearman_"
_LOSSES = ("train_loss", "held_out_loss")
_DOTS = (
    "One row an arm; each mark is one seed, the line through it its 95 % range, the black bar the "
    "mean over seeds, written at the right."
)
_LINES = (
    "Thin lines are seeds, the thick line is their mean; the line through a mark is its 95 % range."
)
_TRAINING = (
    "Top: copies while training goes on. Bottom: how well the model removes noise from training "
    "images and from images it never saw. Bands reach from the lowest to the highest seed. "
    "The dashed line is where the two losses part: training on from there improves on training "
    "images only."
)


class SweepPaths(NamedTuple):
    """The files :func:`write_sweep_report` wrote."""

    html: Path
    csv: Path


class SweepFigure(NamedTuple):
    """One figure of the page with the rows it shows."""

    title: str
    caption: str
    png: bytes
    table: Table
    wide: bool


def write_sweep_report(
    out_dir: str | os.PathLike[str],
    plan: Mapping[str, Any],
    rows: Sequence[Row],
    walls: Mapping[str, bytes],
) -> SweepPaths:
    """Writes ``sweep.html``, ``sweep.csv`` and ``figures/``; all appear together or none.

    Args:
        out_dir: Folder, made if missing.
        plan: ``title``, ``question``, ``command``, ``expected_time``, ``expected_picture``,
            ``factor``, ``factor_label``, ``scale`` (``category``, ``linear`` or ``log``),
            ``headline`` (names of metrics), ``expectations`` (``{"text", "holds": True | False |
            None, "because"}``), ``num_arms`` (rows of the whole sweep), ``stopping_point`` (step,
            or seed → step or None), ``titles`` (metric → words) and ``wall_number`` (what the
            number under a wall's image is); each may be missing.
        rows: ``arm``, ``key``, ``seed``, ``factor``, ``value``, ``order`` and ``metrics`` (name →
            ``{"value", "low", "high"}``) each; a row may lack any metric.
        walls: ``"<arm>, seed <seed>"`` (or the row's ``wall``, ``<key>-<seed>``, or the arm's
            name) → PNG bytes.

    Raises:
        ValueError: If the scale is unknown or a wall is no PNG; nothing is written then.
    """
    arms = arms_of(rows)
    drawn = sweep_figures(plan, arms)
    tables = {key: figure.table for key, figure in drawn.items()}
    images = {key: figure.png for key, figure in drawn.items()}
    shown = _walls(arms, walls)
    images |= {f"wall/{name}": png for of_seed in shown.values() for name, png in of_seed.items()}
    page = _render(plan, rows, arms, drawn, shown, file_names([*images]))
    pages = dict(zip(PAGES, (page, csv_text(long_table(arms), "sweep")), strict=True))
    paths = publish(out_dir, pages, images, tables)
    return SweepPaths(*(paths[name] for name in PAGES))


def sweep_figures(plan: Mapping[str, Any], arms: Sequence[SweepArm]) -> dict[str, SweepFigure]:
    """Returns the sweep's figures by key, in the page's order; metrics nobody has are left out.

    Raises:
        ValueError: If the scale is none of ``category``, ``linear`` and ``log``.
    """
    scale = plan.get("scale") or "category"
    if scale not in ("category", "linear", "log"):
        raise ValueError(f"scale is {scale!r}, expected 'category', 'linear' or 'log'.")
    titles, xlabel = plan.get("titles") or {}, str(plan.get("factor_label") or "")
    headline = [m for m in plan.get("headline") or () if measured(arms, m)]
    out: dict[str, SweepFigure] = {}
    along = scale != "category" and any(isinstance(a.value, (int, float)) for a in arms)
    if along and all(measured(arms, loss) for loss in _LOSSES):
        rates = [m for m in headline if is_share(m)]
        stops = _stops(plan.get("stopping_point"))
        log = scale == "log"
        png = training_panels(arms, rates, xlabel, stops=stops, log=log, titles=titles)
        table = metric_table(arms, [*rates, *_LOSSES])
        out["training"] = SweepFigure("Copies and losses while training", _TRAINING, png, table,
                                      True)  # fmt: skip
    for metric in headline:
        title = metric_title(metric, titles)
        table = metric_table(arms, [metric])
        if along:
            png = factor_lines(arms, metric, xlabel, log=scale == "log", titles=titles)
            out[metric] = SweepFigure(title, _LINES, png, table, False)
        else:
            png = arm_dots(arms, metric, titles)
            out[metric] = SweepFigure(title, _DOTS, png, table, True)
    return out


def _stops(found: Any) -> dict[int, float | None]:
    if isinstance(found, Mapping):
        return {int(seed): step for seed, step in found.items()}
    if isinstance(found, (list, tuple)):
        return dict(enumerate(found))
    return {} if found is None else {0: float(found)}


def _walls(arms: Sequence[SweepArm], walls: Mapping[str, bytes]) -> dict[int, dict[str, bytes]]:
    """Seed → arm's name with seed → wall; a wall without a seed stands with the first one."""
    out: dict[int, dict[str, bytes]] = {}
    for seed in seeds_of(arms):
        for arm in arms:
            row = arm.rows.get(seed)
            if row is None:
                continue
            keys = [f"{arm.name}, seed {seed}", str(row.get("wall")), f"{arm.key}-{seed}"]
            if seed == min(arm.rows):
                keys += [arm.name, arm.key]
            found = next((walls[key] for key in keys if key in walls), None)
            if found is not None:
                out.setdefault(seed, {})[keys[0]] = found
    return out


def _render(plan, rows, arms, drawn, shown, names) -> str:
    titles = plan.get("titles") or {}
    headline = [m for m in plan.get("headline") or () if measured(arms, m)]
    rungs = [m for m in metrics_of(rows) if m.startswith(_RUNG) and measured(arms, m)]
    figures = [
        {
            "title": figure.title,
            "caption": figure.caption,
            "source": data_uri(figure.png),
            "width": width_of(figure.png),
            "wide": figure.wide,
            "data": f"{FOLDER}/{names[key]}.csv",
        }
        for key, figure in drawn.items()
    ]
    walls = [
        (seed, [(name, data_uri(png), width_of(png)) for name, png in of_seed.items()])
        for seed, of_seed in shown.items()
    ]
    total = plan.get("num_arms")
    done = sum(len(arm.rows) for arm in arms)
    return page_environment().get_template("sweep.html.j2").render(
        p=to_plain(dict(plan)),
        done=done,
        total=int(total) if total else done,
        seeds=seeds_of(arms),
        figures=figures,
        walls=walls,
        headings=[metric_title(m, titles) for m in headline],
        arm_rows=[(a.name, len(a.rows), [_cell(a, m) for m in headline]) for a in arms],
        rungs=_rung_table(arms, rungs),
        found=_found(plan, arms, headline, titles),
        stops=_stops(plan.get("stopping_point")),
    )  # fmt: skip


def _text(value: float, metric: str) -> str:
    return percent(value) if is_share(metric) else decimal(value, 3 if "loss" in metric else 2)


def _cell(arm: SweepArm, metric: str) -> tuple[str, str]:
    """Mean over seeds, and "lowest–highest" where there is more than one."""
    found = summary_of(arm, metric)
    if found is None:
        return "–", ""
    ends = {"x_low": found.least, "x_high": found.most}
    spread = interval(ends, "x", "percent" if is_share(metric) else "plain")
    if "loss" in metric:
        spread = f"{_text(found.least, metric)}–{_text(found.most, metric)}"
    return _text(found.mean, metric), spread if found.seeds > 1 else ""


def _rung_table(arms: Sequence[SweepArm], rungs: Sequence[str]) -> dict[str, Any]:
    """The correlation table, arms or rungs across, whichever are fewer."""
    if not rungs:
        return {}
    names = [metric.removeprefix(_RUNG).replace("_", " ") for metric in rungs]
    own = [arm for arm in arms if any(summary_of(arm, metric) for metric in rungs)]
    cells = [[_cell(arm, metric) for metric in rungs] for arm in own]
    arm_names = [arm.name for arm in own]
    if len(own) <= len(rungs):
        turned = [list(column) for column in zip(*cells, strict=True)]
        return {"corner": "Likeness measured by", "heads": arm_names,
                "rows": list(zip(names, turned, strict=True))}  # fmt: skip
    return {"corner": "Arm", "heads": names, "rows": list(zip(arm_names, cells, strict=True))}


def _found(plan, arms: Sequence[SweepArm], headline: Sequence[str], titles) -> list[str]:
    """One sentence a headline metric: where it is lowest and where highest."""
    out = []
    for metric in headline:
        known = [(arm.name, s.mean) for arm in arms if (s := summary_of(arm, metric))]
        low, high = min(known, key=lambda pair: pair[1]), max(known, key=lambda pair: pair[1])
        title = metric_title(metric, titles)
        if low[1] == high[1]:
            where = "everywhere" if len(known) > 1 else f"at “{low[0]}”"
            out.append(f"{title}: {_text(low[1], metric)} {where}.")
            continue
        out.append(
            f"{title}: lowest at “{low[0]}” ({_text(low[1], metric)}), highest at “{high[0]}” "
            f"({_text(high[1], metric)})."
        )
    return out

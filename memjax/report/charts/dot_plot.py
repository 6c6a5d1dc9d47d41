"""Dots with ranges: one row an arm, one dot a seed (or one in all), one panel a quantity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from memjax.core.registry import title_of
from memjax.evaluate.statistics.bootstrap import Estimate
from memjax.report.style import (
    FULL,
    INK,
    ONCE,
    TEXT,
    Style,
    axes_at,
    escape_math,
    new_figure,
    text_at,
    tidy,
    to_png,
    wrapped,
)
from memjax.report.wording import decimal, interval, percent

_NAMES, _ROW = 2.5, 0.2  # inches: of the arms' names, of one seed's line
_LINES = 4  # of an arm's name at most
_TALLEST = 60.0  # inches: of the rows together
_VALUES = 1.25  # inches: of the values written beside a panel
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SEED_COLORS = (ONCE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#D55E00", INK)
_SPREAD = 0.26


Panel = Mapping[str, Sequence[Estimate]]


def dot_panels(
    panels: Mapping[str, Panel],
    *,
    reference: float | None = None,
    shares: Sequence[bool] | bool = False,
    looks: Sequence[Style] | None = None,
    seeds: Sequence[str] = (),
    write_values: bool = False,
) -> bytes:
    """Draws one row an arm: a dot with its range a seed, and a bar at their mean.

    Args:
        panels: Label of the axis → arm → one estimate a seed. All panels have the same arms.
        reference: A thin line at this value in every panel.
        shares: Whether values are shares shown as percentages, in all panels or one each.
        looks: Color and marker of each *arm*; None: of each seed.
        seeds: Names of the seeds, for the legend; none where there is one only.
        write_values: Whether the mean stands beside its row.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no panel or no arm.
    """
    if not panels or not next(iter(panels.values())):
        raise ValueError("no arm was given, expected at least one; leave the figure out.")
    arms = list(next(iter(panels.values())))
    deep = max((len(e) for panel in panels.values() for e in panel.values()), default=1)
    names = [escape_math(wrapped(arm, 32, _LINES)) for arm in arms]
    lines = max(name.count("\n") + 1 for name in names)
    row = min(max(0.34, _ROW * deep, _ROW * lines - 0.06), _TALLEST / len(arms))
    height, head = row * len(arms), 0.14 + (0.26 if deep > 1 else 0.0)
    figure = new_figure(FULL, head + height + 0.62)
    gap = 0.3 + (_VALUES if write_values else 0.0)
    width = (FULL - _NAMES - gap * len(panels)) / len(panels)
    kinds = [shares] * len(panels) if isinstance(shares, bool) else list(shares)
    for place, ((label, panel), share) in enumerate(zip(panels.items(), kinds, strict=True)):
        axes = axes_at(figure, _NAMES + place * (width + gap), head, width, height)
        estimates = [panel.get(arm, ()) for arm in arms]
        _draw_panel(axes, estimates, looks, deep)
        tidy(axes, wrapped(label, int(width * 13), 2), "")
        _scale(axes, estimates, share, reference)
        axes.set_yticks(range(len(arms)), names)
        axes.tick_params(axis="y", labelleft=place == 0, length=0)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(False, axis="y")
        if write_values:
            _write_means(axes, estimates, share)
        if not any(e.known() for row_of in estimates for e in row_of):
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=INK)
    if deep > 1:
        _seed_legend(figure, deep, seeds)
    return to_png(figure)


def repair_panels(
    mitigation: Mapping[str, Any], labels: str = "findings"
) -> dict[str, dict[str, list[Estimate]]]:
    """Returns copies, and images that show what was asked for, of no repair and each repair.

    Args:
        mitigation: ``results["mitigation"]``: ``copy_rate_before``, ``label_agreement_before`` and
            ``arms`` with ``name``, ``copy_rate_after`` and ``label_agreement_after``.
        labels: What a prompt asks for.
    """
    panels: dict[str, dict[str, list[Estimate]]] = {}
    for label, key in (
        ("Copies among images of memorized prompts", "copy_rate"),
        (f"Images that show the {labels} asked for", "label_agreement"),
    ):
        rows = {"no repair": [_estimate(mitigation, f"{key}_before")]}
        for arm in mitigation.get("arms") or ():
            rows[title_of(str(arm["name"]))] = [_estimate(arm, f"{key}_after")]
        if any(e.known() for row in rows.values() for e in row):
            panels[label] = rows
    return panels


def clip_panel(mitigation: Mapping[str, Any]) -> dict[str, dict[str, list[Estimate]]]:
    """Returns the CLIP scores of no repair and each repair; empty where none were measured."""
    rows = {"no repair": [_estimate(mitigation, "clip_before")]}
    for arm in mitigation.get("arms") or ():
        rows[title_of(str(arm["name"]))] = [_estimate(arm, "clip_after")]
    known = any(e.known() for row in rows.values() for e in row)
    return {"CLIP score with the prompt as asked": rows} if known else {}


def _estimate(figures: Mapping[str, Any], key: str) -> Estimate:
    return Estimate(figures.get(key), figures.get(f"{key}_low"), figures.get(f"{key}_high"))


def _finite(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def mean_of(estimates: Sequence[Estimate]) -> float | None:
    """Returns the mean of the known values, or None."""
    known = [float(e.value) for e in estimates if e.value is not None and e.known()]
    return float(np.mean(known)) if known else None


def _draw_panel(axes: Axes, estimates, looks, deep: int) -> None:
    for y, row in enumerate(estimates):
        if y % 2 == 1:
            axes.axhspan(y - 0.5, y + 0.5, color="#F5F6F8", lw=0, zorder=0)
        spots = np.linspace(-_SPREAD, _SPREAD, deep) if deep > 1 else [0.0]
        for place, estimate in enumerate(row):
            if not estimate.known():
                continue
            look = looks[y] if looks else None
            color = look.color if look else _SEED_COLORS[place % 8] if deep > 1 else ONCE
            marker = look.marker if look else _MARKERS[place % 8] if deep > 1 else "o"
            _draw_estimate(axes, estimate, y + spots[place], color, marker)
        mean = mean_of(row)
        if deep > 1 and mean is not None:
            axes.plot([mean, mean], [y - 0.4, y + 0.4], color=INK, lw=2.4, zorder=2)


def _draw_estimate(axes: Axes, estimate: Estimate, y: float, color: str, marker: str) -> None:
    ends = [end for end in (estimate.low, estimate.high) if end is not None and np.isfinite(end)]
    if len(ends) == 2:
        axes.plot(ends, [y, y], color=color, lw=1.6, alpha=0.6)
    look: dict[str, Any] = {"ms": 7, "mec": "white", "mew": 0.5, "zorder": 3}
    axes.plot(float(estimate.value or 0), y, color=color, marker=marker, **look)


def _scale(axes: Axes, estimates, share: bool, reference: float | None) -> None:
    if share:
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if reference is not None:
        axes.axvline(reference, color=INK, lw=1, ls=":", zorder=1)
    if not share:
        axes.margins(x=0.06)


def _write_means(axes: Axes, estimates, share: bool) -> None:
    """Writes each row's mean, and the range of a single dot, right of the axes."""
    for y, row in enumerate(estimates):
        mean = mean_of(row)
        if mean is None:
            continue
        said = percent(mean) if share else decimal(mean)
        if len(row) == 1:
            ends = {"x_low": row[0].low, "x_high": row[0].high}
            between = interval(ends, "x", "percent" if share else "plain")
            said += f" ({between})" if between else ""
        axes.annotate(
            said,
            (1.0, y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=TEXT,
            color=INK,
        )


def _seed_legend(figure, deep: int, seeds: Sequence[str]) -> None:
    names = [f"seed {s}" for s in seeds] or [f"repeat {i + 1}" for i in range(deep)]
    at = _NAMES
    for place, name in enumerate(names[:8]):
        axes = axes_at(figure, at, 0.06, 0.3, 0.2)
        axes.plot([0, 1], [0, 0], color=_SEED_COLORS[place], lw=1.6, alpha=0.6)
        axes.plot([0.5], [0], color=_SEED_COLORS[place], marker=_MARKERS[place], ms=7)
        axes.set_axis_off()
        text_at(figure, at + 0.36, 0.07, name)
        at += 0.62 + 0.075 * len(name)
    axes = axes_at(figure, at, 0.06, 0.12, 0.2)
    axes.axvline(0.5, color=INK, lw=2.4)
    axes.set_axis_off()
    text_at(figure, at + 0.18, 0.07, "mean   (line through a dot: its 95 % range)")

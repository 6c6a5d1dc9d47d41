"""Does the warning signal go along with likeness? Scatter with margins, AUC by family."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.bootstrap import Estimate
from memjax.report.charts.dot_plot import dot_panels
from memjax.report.style import (
    FAINT,
    FULL,
    INK,
    TEXT,
    Style,
    axes_at,
    escape_math,
    family_styles,
    new_figure,
    text_at,
    tidy,
    to_png,
    wrapped,
)
from memjax.report.wording import family_title, number

_WIDTH, _HEIGHT, _LANE, _SPACE = 5.4, 3.3, 0.23, 0.1
_BINS = 40
_DASHED = (0, (4, 2))

Points = Mapping[str, tuple[ArrayLike, ArrayLike]]


def scatter_with_margins(
    groups: Points,
    xlabel: str,
    ylabel: str,
    title: str,
    threshold: float | None = None,
) -> bytes:
    """Draws one point an image; at both margins each group's histogram in a lane of its own.

    Args:
        groups: Name → ``(x, y)``, one value an image each; rows where one is not finite are left
            out. Names of prompt families (``memorized``, ``once``, ``held_out``, ``near_miss``,
            ``random``, or words that say so) keep their color and marker in every figure.
        xlabel: Name and unit of x.
        ylabel: Name and unit of y.
        title: Stands above, e.g. the correlation with its interval.
        threshold: A line at this y; above it an image counts as a copy.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If x and y of a group differ in number, or no point is left.
    """
    points = {name: _finite(name, *pair) for name, pair in groups.items()}
    points = {name: pair for name, pair in points.items() if pair[0].size}
    if not points:
        raise ValueError("no group holds a point with finite x and y; leave the figure out.")
    styles = family_styles(points)
    shown, margin = wrapped(title, 84, 3), _LANE * len(points)
    head = 0.32 + 0.2 * (1 + shown.count("\n"))
    top, right = head + margin + _SPACE, 0.8 + _WIDTH + _SPACE
    figure = new_figure(FULL, top + _HEIGHT + 0.6)
    text_at(figure, 0.12, 0.12, shown, fontsize=TEXT + 1.5, weight="bold")
    axes = axes_at(figure, 0.8, top, _WIDTH, _HEIGHT)
    _draw_points(axes, points, styles)
    tidy(axes, xlabel, ylabel)
    lanes = [(styles[name], pair) for name, pair in points.items()]
    line = _draw_threshold(axes, threshold)
    for place, (style, (x, y)) in enumerate(lanes):
        above = axes_at(figure, 0.8, head + place * _LANE, _WIDTH, _LANE)
        _draw_lane(above, style, x, axes.get_xlim(), "vertical")
        beside = axes_at(figure, right + margin - (place + 1) * _LANE, top, _LANE, _HEIGHT)
        _draw_lane(beside, style, y, axes.get_ylim(), "horizontal")
        if line is not None:
            beside.axhline(line, color=INK, lw=1.1, ls=_DASHED)
    drawn = list(zip(*axes.get_legend_handles_labels(), strict=True))
    marks = [pair for pair in drawn if isinstance(pair[0], PathCollection)][::-1]
    handles, labels = zip(*marks, *(pair for pair in drawn if pair not in marks), strict=True)
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=((right + margin + 0.1) / FULL, 1 - top / figure.get_figheight()),
        frameon=False,
        fontsize=TEXT,
        labelcolor=INK,
        handletextpad=0.6,
        labelspacing=0.9,
    )
    return to_png(figure)


def _finite(name: str, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    if a.size != b.size:
        raise ValueError(
            f"group {name!r} has {a.size} x and {b.size} y, expected as many of each; "
            "pass one pair an image."
        )
    keep = np.isfinite(a) & np.isfinite(b)
    return a[keep], b[keep]


def _draw_points(axes: Axes, points, styles: Mapping[str, Style]) -> None:
    total = sum(x.size for x, _ in points.values())
    size = 34 if total <= 300 else 16 if total <= 3000 else 6
    for name, (x, y) in reversed(points.items()):  # the first group lies on top
        style = styles[name]
        label = wrapped(f"{family_title(name)} ({number(x.size)})", 22, 4)
        axes.scatter(
            x,
            y,
            s=size,
            c=style.color,
            marker=style.marker,
            alpha=0.75,
            edgecolors="white",
            linewidths=0.4,
            label=escape_math(label),
        )


def _draw_threshold(axes: Axes, threshold: float | None) -> float | None:
    """Draws the line and keeps it in sight; returns where it is."""
    if threshold is None or not np.isfinite(threshold):
        return None
    low, high = axes.get_ylim()
    pad = 0.05 * (high - low)
    label = wrapped(f"above this line ({threshold:.2f}) an image counts as a copy", 22, 4)
    axes.axhline(threshold, color=INK, lw=1.1, ls=_DASHED, label=label)
    axes.set_ylim(min(low, threshold - pad), max(high, threshold + pad))
    return float(threshold)


def _draw_lane(axes: Axes, style: Style, values, limits: tuple[float, float], place: Any) -> None:
    """One group's histogram as shares of the group, scaled to its lane."""
    axes.hist(
        values,
        np.linspace(*limits, _BINS + 1).tolist(),
        orientation=place,
        color=style.color,
        edgecolor="white",
        lw=0.4,
    )
    spot = (-0.02, 0.4) if place == "vertical" else (0.4, 1.02)
    axes.plot(*spot, style.marker, color=style.color, ms=5, transform=axes.transAxes, clip_on=False)
    if place == "vertical":
        axes.set_xlim(limits)
        axes.axhline(0, color=FAINT, lw=0.8)
    else:
        axes.set_ylim(limits)
        axes.axvline(0, color=FAINT, lw=0.8)
    axes.set_axis_off()


def family_bars(families: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws the AUC of the warning signal against each family of other prompts.

    Args:
        families: ``{"name", "title", "num", "auc", "auc_low", "auc_high"}`` each; families without
            an AUC are left out.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If no family has an AUC.
    """
    known = [f for f in families if f.get("auc") is not None and np.isfinite(f["auc"])]
    if not known:
        raise ValueError("no family has an AUC, expected at least one; leave the figure out.")
    rows: dict[str, list[Estimate]] = {}
    for f in known:
        label = f"{f.get('title') or family_title(str(f['name']))} ({number(f.get('num') or 0)})"
        label = f"{label} [{f['name']}]" if label in rows else label
        rows[label] = [Estimate(f["auc"], f.get("auc_low"), f.get("auc_high"))]
    styles = family_styles([str(f["name"]) for f in known])
    looks = [styles[str(f["name"])] for f in known]
    label = "Area under the curve (AUC): 0.5 = a coin toss, 1 = perfect"
    return dot_panels({label: rows}, reference=0.5, looks=looks, write_values=True)

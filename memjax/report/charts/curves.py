"""The report's figures as PNG bytes: curves, bars and histograms (image walls: ``walls``)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.roc import auc, roc_curve
from memjax.report.style import (
    FAINT,
    HALF,
    INK,
    MEMORIZED,
    ONCE,
    SERIES,
    TEXT,
    axes_at,
    escape_math,
    family_styles,
    legend_above,
    new_figure,
    tidy,
    to_png,
    wrapped,
)


def magnitude_curves(
    groups: Mapping[str, Float[np.ndarray, "prompts steps"]],
    *,
    window: tuple[int, int] | None = None,
    band: tuple[float, float] = (10.0, 90.0),
    ylabel: str = "Pull of the prompt (RMS magnitude)",
    unit: str = "prompts",
) -> bytes:
    """Draws each group's median per-step magnitude with a quantile band.

    Args:
        groups: Name → ``[prompts, steps]`` (generations already averaged); names that speak of
            a family of prompts are drawn in that family's color.
        window: ``(start, stop)`` of the steps the default detector averages; shaded.
        band: Percentiles of the band.
        ylabel: Name of the magnitude; the axis begins at 0 unless some of it lies below.
        unit: What a row is.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no group, or one is not ``[prompts, steps]``.
    """
    figure, axes = _plot(len(groups) + (window is not None))
    if window is not None:
        name = f"steps {window[0] + 1}–{window[1]}: what the warning uses"
        axes.axvspan(window[0] + 0.5, window[1] + 0.5, color="#EDEFF2", lw=0, label=name)
    styles, lowest = family_styles(groups), 0.0
    for name, values in groups.items():
        color, _, line = styles[name]
        table = np.asarray(values, np.float64)
        if table.ndim != 2 or not table.size:
            raise ValueError(
                f"group {name!r} has shape {table.shape}, expected [prompts, steps]; "
                "average over generations first."
            )
        x = np.arange(1, table.shape[1] + 1)
        low, high = np.percentile(table, band, axis=0)
        lowest = min(lowest, float(low.min()))
        axes.fill_between(x, low, high, color=color, alpha=0.16 if len(groups) <= 3 else 0.1, lw=0)
        label = f"{escape_math(name)} ({len(table)} {unit})"
        axes.plot(x, np.median(table, axis=0), color=color, ls=line, lw=2.2, label=label)
    tidy(axes, "Step of making the image (first = pure noise)", ylabel)
    if lowest == 0.0:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, x[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    legend_above(axes)
    return to_png(figure)


def roc_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    found: str = "Memorized prompts found",
    others: str = "other prompts",
) -> bytes:
    """Draws ROC curves with their AUC in the legend; the 1 % line of false alarms is marked.

    Args:
        curves: Name → ``(scores, labels)`` as for :func:`memjax.evaluate.statistics.roc.roc_curve`.
        found: What the upward axis says.
        others: What false alarms are a share of.

    Returns:
        PNG bytes.
    """
    figure, axes = _plot(len(curves) + 2)
    for (name, pair), (color, line) in zip(curves.items(), _styles(curves), strict=True):
        points = roc_curve(*pair)
        label = f"{escape_math(name)}: AUC {float(auc(*pair)):.2f}"
        axes.plot(points.fpr, points.tpr, color=color, ls=line, lw=2.2, label=label, clip_on=False)
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, label="a coin toss: AUC 0.50")
    axes.axvline(0.01, color=INK, lw=0.9, label="1 % false alarms")
    tidy(axes, f"False alarms (share of {others})", found)
    axes.set(xlim=(-0.005, 1), ylim=(0, 1.005))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_above(axes)
    return to_png(figure)


def token_bars(
    names: Sequence[str],
    values: ArrayLike,
    *,
    top: int = 10,
    highlight: Collection[str] = (),
    highlight_label: str = "burned-in marker",
) -> bytes:
    """Draws which parts of the prompt drive the copying, largest first, as shares of the total.

    Args:
        names: One readable name a condition token (``LabelSpace.describe``).
        values: Significance of each, ≥ 0; drawn as a share of their sum.
        top: Bars shown.
        highlight: Names drawn in the other color (e.g. the marker tokens).
        highlight_label: What those are; stands in the legend.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no name, or names and values differ in number.
    """
    v = np.asarray(values, np.float64).ravel()
    if not len(names) or len(names) != v.size:
        raise ValueError(f"{len(names)} names and {v.size} values, expected one value a name.")
    share = v / v.sum() if v.sum() > 0 else v
    order = np.argsort(-share, kind="stable")[:top]
    marked = [names[i] in highlight for i in order]
    extra = 0.34 if any(marked) else 0.1
    figure = new_figure(HALF, 0.56 + extra + 0.3 * len(order))
    axes = axes_at(figure, 2.2, extra, HALF - 2.75, 0.3 * len(order))
    colors = [MEMORIZED if m else ONCE for m in marked]
    hatches = ["//" if m else "" for m in marked]
    rows = np.arange(len(order))
    axes.barh(rows, share[order], 0.68, color=colors, hatch=hatches, edgecolor="white", lw=0)
    for y, i in zip(rows, order, strict=True):
        axes.text(
            float(share[i]),
            float(y),
            f" {share[i]:.0%}",
            va="center",
            fontsize=TEXT - 0.5,
            color=INK,
        )
    tidy(axes, "Share of the pull towards the copy", "")
    axes.set_yticks(rows, [escape_math(wrapped(names[i], 28, 2)) for i in order])
    axes.set(ylim=(len(order) - 0.4, -0.6), xlim=(0, max(float(share.max()) * 1.18, 1e-9)))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(False, axis="y")
    if any(marked):
        axes.barh([0], [0], color=MEMORIZED, hatch="//", edgecolor="white", label=highlight_label)
        axes.barh([0], [0], color=ONCE, label="other parts of the prompt")
        legend_above(axes, columns=2, left=-2.1 / (HALF - 2.75))
    return to_png(figure)


def similarity_histogram(
    groups: Mapping[str, Float[np.ndarray, " images"]],
    *,
    threshold: float = 1.0,
    bins: int = 40,
) -> bytes:
    """Draws one histogram a group of the calibrated distance; left of ``threshold`` is a copy.

    Args:
        groups: Name → ``ratio_adaptive`` of its images (generated, or real ones as background).
        threshold: Copy at or below it.
        bins: Over [0, 2], the ratio's range for α = ½.

    Returns:
        PNG bytes.
    """
    styles = family_styles(groups)
    height, head = (0.95 if len(groups) <= 3 else 0.7), 0.46
    figure = new_figure(HALF, len(groups) * (height + head) + 0.6)
    edges = np.linspace(0, 2, bins + 1)
    for row, (name, values) in enumerate(groups.items()):
        ratio = np.clip(np.asarray(values, np.float64), 0, 2)
        axes = axes_at(figure, 0.62, head + row * (height + head), HALF - 0.8, height)
        axes.axvspan(0, threshold, color="#FBEBDD", lw=0)
        share = np.full(ratio.size, 1 / max(ratio.size, 1))
        axes.hist(
            ratio,
            edges.tolist(),
            weights=share,
            color=styles[name].color,
            edgecolor="white",
            lw=0.5,
        )
        axes.axvline(threshold, color=INK, lw=1, ls=":")
        last = row == len(groups) - 1
        tidy(axes, "Distance to the nearest training image, calibrated" if last else "", "")
        copies = int((ratio <= threshold).sum())
        count = f"{copies} of {ratio.size} count as copies"
        said = f"{escape_math(wrapped(name, 60, 1))}\n{count}"
        axes.set_title(said, fontsize=TEXT, loc="left", color=INK, pad=4)
        axes.set(xlim=(0, 2), xticks=np.linspace(0, 2, 5))
        axes.tick_params(labelbottom=last)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
        if row == 0:
            place: dict[str, Any] = {
                "transform": axes.get_xaxis_transform(),
                "fontsize": TEXT - 1,
                "va": "top",
            }
            place["bbox"] = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.8}
            axes.text(threshold - 0.03, 0.95, "copy", ha="right", color=INK, **place)
            axes.text(threshold + 0.03, 0.95, "not a copy", ha="left", color=INK, **place)
    return to_png(figure)


def _styles(groups: Mapping) -> list[tuple]:
    if not 1 <= len(groups) <= len(SERIES):
        raise ValueError(
            f"{len(groups)} groups were given, expected 1 to {len(SERIES)}; draw fewer a figure."
        )
    return list(SERIES[: len(groups)])


def _plot(legend_rows: int) -> tuple[Figure, Axes]:
    """A half-width figure whose plot keeps its size however many legend lines stand above."""
    head = 0.12 + 0.212 * legend_rows
    figure = new_figure(HALF, head + 2.3 + 0.55)
    return figure, axes_at(figure, 0.75, head, HALF - 1.0, 2.3)

"""A sweep's figures: dots by arm, lines along a number, rates and losses along training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from memjax.report.charts.dot_plot import Panel, dot_panels
from memjax.report.style import (
    FULL,
    HALF,
    INK,
    SERIES,
    TEXT,
    axes_at,
    escape_math,
    legend_above,
    new_figure,
    tidy,
    to_png,
    wrapped,
)
from memjax.report.wording import is_share, metric_title
from memjax.studies.sweep.table import SweepArm, estimate, seeds_of, summary_of

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Titles = Mapping[str, str]
Stops = Mapping[int, float | None]


def arm_dots(arms: Sequence[SweepArm], metric: str, titles: Titles | None = None) -> bytes:
    """Draws one row an arm and one dot a seed with its range; a bar marks the mean.

    Args:
        arms: In the order they are drawn.
        metric: Name of the metric.
        titles: Metric → words that replace the usual ones.

    Returns:
        PNG bytes.
    """
    label = metric_title(metric, titles)
    reference = 0.5 if metric.startswith("auc") else 0.0 if _is_correlation(metric) else None
    return dot_panels(
        {label: panel_of(arms, metric)},
        reference=reference,
        shares=is_share(metric),
        seeds=[str(s) for s in seeds_of(arms)],
        write_values=True,
    )


def _is_correlation(metric: str) -> bool:
    return metric.startswith(("spearman_", "pearson_", "partial_"))


def factor_lines(
    arms: Sequence[SweepArm],
    metric: str,
    xlabel: str,
    *,
    log: bool = False,
    titles: Titles | None = None,
) -> bytes:
    """Draws a metric along a numeric factor: thin lines are seeds, the thick one is their mean.

    Args:
        arms: With a number as ``value``; others are left out.
        metric: Name of the metric.
        xlabel: Name and unit of the factor.
        log: Whether the factor's axis is logarithmic (only where all its values are positive).
        titles: Metric → words that replace the usual ones.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If no arm has a number as its value.
    """
    placed = numeric(arms)
    seeds = seeds_of(placed)
    rows = len(seeds) + 1
    head = 0.12 + 0.212 * rows
    figure = new_figure(HALF, head + 2.3 + 0.6)
    axes = axes_at(figure, 0.95, head, HALF - 1.2, 2.3)
    _draw_lines(axes, placed, metric)
    ylabel = wrapped(metric_title(metric, titles), 32, 2)
    _dress(axes, placed, xlabel, ylabel, log, is_share(metric))
    legend_above(axes)
    return to_png(figure)


def training_panels(
    arms: Sequence[SweepArm],
    rates: Sequence[str],
    xlabel: str,
    *,
    stops: Stops | None = None,
    log: bool = False,
    titles: Titles | None = None,
) -> bytes:
    """Draws copy rates above, training and held-out denoising loss below, along training.

    Args:
        arms: One a checkpoint, its number of steps as ``value``.
        rates: Metrics of the upper panel, at most five; lines are means over seeds, bands their
            smallest and largest value.
        xlabel: Name and unit of the factor.
        stops: Seed → step at which the losses part (None: they do not); vertical lines.
        log: Whether the factor's axis is logarithmic.
        titles: Metric → words that replace the usual ones.

    Returns:
        PNG bytes.
    """
    placed = numeric(arms)
    drawn, height = list(rates)[: len(SERIES)], 2.1
    figure = new_figure(FULL, 0.25 + 2 * height + 0.35 + 0.6)
    upper = axes_at(figure, 0.85, 0.2, 6.1, height)
    lower = axes_at(figure, 0.85, 0.2 + height + 0.35, 6.1, height)
    losses = [m for m in ("train_loss", "held_out_loss") if _known(placed, m)]
    for axes, metrics, ylabel in (
        (upper, drawn, "Share of images" if all(map(is_share, drawn)) else "Value"),
        (lower, losses, "Denoising loss"),
    ):
        for metric, (color, line) in zip(metrics, SERIES, strict=False):
            _draw_mean(axes, placed, metric, color, line, metric_title(metric, titles))
        shares = bool(drawn) and axes is upper and all(map(is_share, drawn))
        _dress(axes, placed, xlabel if axes is lower else "", ylabel, log, shares)
        _draw_stops(axes, stops or {})
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.02, 1.03),
            frameon=False,
            fontsize=TEXT,
            labelcolor=INK,
            handlelength=2.6,
        )
    upper.tick_params(labelbottom=False)
    return to_png(figure)


def numeric(arms: Sequence[SweepArm]) -> list[SweepArm]:
    """Returns the arms whose value is a number, smallest first.

    Raises:
        ValueError: If there is none.
    """
    kept = [a for a in arms if isinstance(a.value, (int, float)) and np.isfinite(a.value)]
    if not kept:
        values = [arm.value for arm in arms]
        raise ValueError(
            f"no arm's value is a number, found {values}; give numbers or the scale 'category'."
        )
    return sorted(kept, key=lambda arm: arm.value)


def _known(arms: Sequence[SweepArm], metric: str) -> bool:
    return any(summary_of(arm, metric) for arm in arms)


def _draw_lines(axes: Axes, arms: Sequence[SweepArm], metric: str) -> None:
    seeds = seeds_of(arms)
    colors = [color for color, _ in SERIES[1:]] + [SERIES[0][0]]
    for place, seed in enumerate(seeds):
        found = [(arm.value, estimate(arm.rows.get(seed), metric)) for arm in arms]
        known = [(x, e) for x, e in found if e.known()]
        color, marker = colors[place % len(colors)], _MARKERS[place % len(_MARKERS)]
        label = f"seed {seed}, line through a mark: its 95 % range" if not place else f"seed {seed}"
        xs, ys = [x for x, _ in known], [float(e.value or 0.0) for _, e in known]
        axes.plot(xs, ys, color=color, lw=0.9, marker=marker, ms=4.5, alpha=0.85, label=label)
        for x, e in known:
            if e.low is not None and e.high is not None:
                axes.plot([x, x], [e.low, e.high], color=color, lw=1.1, alpha=0.4)
    means = [(arm.value, s.mean) for arm in arms if (s := summary_of(arm, metric))]
    if len(seeds) > 1 and means:
        axes.plot(*zip(*means, strict=True), color=INK, lw=2.4, label=f"mean of {len(seeds)} seeds")


def _draw_mean(axes: Axes, arms, metric: str, color: str, line, title: str) -> None:
    found = [(arm.value, s) for arm in arms if (s := summary_of(arm, metric))]
    if not found:
        return
    x = [value for value, _ in found]
    axes.fill_between(
        x, [s.least for _, s in found], [s.most for _, s in found], color=color, alpha=0.15, lw=0
    )
    label = escape_math(wrapped(title, 28, 3))
    axes.plot(x, [s.mean for _, s in found], color=color, ls=line, lw=2.2, marker="o", ms=3.5,
              label=label)  # fmt: skip


def _draw_stops(axes: Axes, stops: Stops) -> None:
    known = [step for step in stops.values() if step is not None]
    for place, step in enumerate(known):
        label = "losses part here" if not place else None
        if not place and len(stops) > 1:
            label = f"losses part here ({len(known)} of {len(stops)} seeds)"
        axes.axvline(step, color=INK, lw=1.3, ls=(0, (4, 2)), label=label and wrapped(label, 28, 2))


def _dress(axes: Axes, arms, xlabel: str, ylabel: str, log: bool, shares: bool) -> None:
    tidy(axes, wrapped(xlabel, 60, 1), ylabel)
    values = [arm.value for arm in arms]
    if log and min(values) > 0:
        axes.set_xscale("log")
        axes.set_xticks(_apart(values))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if shares:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif all(str(line.get_label()).startswith("_") for line in axes.get_lines()):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=INK)


def _apart(values: Sequence[float]) -> list[float]:
    """Returns those of some rising positive values whose labels do not touch on a log axis."""
    least = max(values[-1] / values[0], 1.0) ** (1 / 8)
    kept: list[float] = []
    for value in values:
        if not kept or value / kept[-1] >= least:
            kept.append(value)
    return kept


def panel_of(arms: Sequence[SweepArm], metric: str) -> Panel:
    """Returns arm → one estimate a seed, for :func:`memjax.report.charts.dot_plot.dot_panels`."""
    seeds = seeds_of(arms)
    return {arm.name: [estimate(arm.rows.get(s), metric) for s in seeds] for arm in arms}

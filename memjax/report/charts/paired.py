"""One value a prompt before and after the repair: arrows with names, or slopes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from memjax.report.style import (
    FAINT,
    FULL,
    INK,
    MEMORIZED,
    ONCE,
    TEXT,
    axes_at,
    elided,
    escape_math,
    new_figure,
    text_at,
    tidy,
    to_png,
    wrapped,
)
from memjax.report.wording import p_value_text

_MOST_NAMED = 24  # pairs that are drawn with their names
_DASHED = (0, (4, 2))


def paired_dots(
    before: ArrayLike,
    after: ArrayLike,
    names: Sequence[str],
    ylabel: str,
    p_value: float | None,
    *,
    threshold: float | None = None,
) -> bytes:
    """Draws each prompt's value before and after; few prompts with names, many as slopes.

    Args:
        before: One value a prompt.
        after: The same prompts afterwards; pairs with a value that is not finite are left out.
        names: One text a prompt.
        ylabel: Name and unit of the value.
        p_value: Of a paired test (Wilcoxon's signed ranks); None: not tested.
        threshold: A line at this value; beyond it an image counts as a copy.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If the three differ in number, or no pair is left.
    """
    a, b = np.asarray(before, np.float64).ravel(), np.asarray(after, np.float64).ravel()
    if not a.size == b.size == len(names):
        raise ValueError(
            f"{a.size} values before, {b.size} after and {len(names)} names, expected as many of "
            "each; pass one pair a prompt."
        )
    keep = np.flatnonzero(np.isfinite(a) & np.isfinite(b))
    if not keep.size:
        raise ValueError("no pair has two finite values; leave the figure out.")
    order = keep[np.argsort(-a[keep], kind="stable")]
    draw = _dumbbells if len(order) <= _MOST_NAMED else _slopes
    return draw(a[order], b[order], [names[i] for i in order], ylabel, p_value, threshold)


def _paired_title(a: np.ndarray, b: np.ndarray, p_value: float | None) -> str:
    fell = int((b < a).sum())
    return (
        f"Median {np.median(a):.2f} before, {np.median(b):.2f} after; lower for {fell} of "
        f"{len(a)} prompts; {p_value_text(p_value)}"
    )


def _dumbbells(a, b, names, ylabel: str, p_value, threshold) -> bytes:
    """One row a prompt: an arrow from the value before to the value after."""
    row, head, left = 0.3, 0.72, 3.1
    height = max(row * len(a), 0.6)
    figure = new_figure(FULL, head + height + 0.6)
    text_at(figure, 0.12, 0.1, wrapped(_paired_title(a, b, p_value), 100, 2), weight="bold")
    axes = axes_at(figure, left, head, FULL - left - 0.25, height)
    rows = np.arange(len(a))
    for y, x0, x1 in zip(rows, a, b, strict=True):
        arrow = {"arrowstyle": "->", "color": FAINT, "lw": 1.4, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", (x1, y), (x0, y), arrowprops=arrow)
    axes.scatter(a, rows, s=52, c=MEMORIZED, marker="o", zorder=3, label="before the repair")
    axes.scatter(b, rows, s=44, c=ONCE, marker="s", zorder=3, label="after the repair")
    if threshold is not None and np.isfinite(threshold):
        axes.axvline(threshold, color=INK, lw=1.1, ls=_DASHED, label="copy: right of this line")
    tidy(axes, ylabel, "")
    axes.set_yticks(rows, [escape_math(elided(n, 40)) for n in names])
    axes.set_ylim(len(a) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        frameon=False,
        fontsize=TEXT - 0.5,
        borderaxespad=0.2,
    )
    return to_png(figure)


def _slopes(a, b, names, ylabel: str, p_value, threshold) -> bytes:
    """One line a prompt from before (left) to after (right), the median thick."""
    figure = new_figure(FULL, 4.9)
    text_at(figure, 0.12, 0.1, wrapped(_paired_title(a, b, p_value), 100, 2), weight="bold")
    axes = axes_at(figure, 0.8, 0.72, 5.4, 3.7)
    fell = b < a
    for kind, color, line, words in (
        (fell, ONCE, "-", "lower after"),
        (~fell, MEMORIZED, "--", "not lower after"),
    ):
        for x0, x1 in zip(a[kind], b[kind], strict=True):
            axes.plot([0, 1], [x0, x1], color=color, ls=line, lw=0.9, alpha=0.55, marker="o", ms=3)
        label = f"{words} ({int(kind.sum())} prompts)"
        axes.plot([], [], color=color, ls=line, lw=1.6, marker="o", ms=4, label=label)
    axes.plot([0, 1], [np.median(a), np.median(b)], color=INK, lw=3.4, marker="D", label="median")
    if threshold is not None and np.isfinite(threshold):
        axes.axhline(threshold, color=INK, lw=1.1, ls=_DASHED, label="copy: above this line")
    tidy(axes, "", ylabel)
    axes.set_xticks([0, 1], ["before the repair", "after the repair"])
    axes.set_xlim(-0.08, 1.08)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, fontsize=TEXT, labelspacing=0.9
    )
    return to_png(figure)

"""What a repair gains and what it costs: likeness to training against CLIP score, over targets.

References:
    Wen et al., ICLR 2024, Figure 4 (SSCD similarity against CLIP score over targets and baselines).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from memjax.evaluate.statistics.bootstrap import Estimate, Interval
from memjax.report.charts.dot_plot import dot_panels
from memjax.report.style import (
    FULL,
    HELD_OUT,
    INK,
    MEMORIZED,
    ONCE,
    TEXT,
    axes_at,
    escape_math,
    new_figure,
    text_at,
    tidy,
    to_png,
    wrapped,
)
from memjax.studies.mitigation.records import BASELINE, BEFORE, NAMED, TARGET, ArmSummary

_PANEL = 3.3  # inches: height of the axes
_NAME = (36, 3)  # characters and lines of a name in the legend
_MARK, _CHARS = 0.52, 15.0  # inches of a mark and the gap behind a name, characters an inch
_COLORS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", HELD_OUT, INK)
_MARKERS = ("^", "D", "v", "P", "X", "*")
_SHORT = {
    "sscd": "SSCD",
    "sscd_center_crop": "SSCD (crop 224)",
    "pixel_correlation": "Pixel correlation",
    "tiled_distance": "Tiled distance (negated)",
}


def short_title(key: str) -> str:
    """Returns a measure in a word, for the line under an image."""
    return {"pixel_correlation": "pixels", "tiled_distance": "tiles"}.get(key, "SSCD")


def measure_title(key: str) -> str:
    """Returns a measure's short title; unknown ones by their key."""
    return _SHORT.get(key, key.replace("_", " "))


def tradeoff_table(summaries: Sequence[ArmSummary]) -> dict[str, list[Any]]:
    """Returns every arm's means with their 95 % intervals as columns, for the CSV file."""
    keys = list(dict.fromkeys(key for s in summaries for key in s.likeness))
    columns: dict[str, list[Any]] = {
        "arm": [s.arm.key for s in summaries],
        "kind": [s.arm.kind for s in summaries],
        "strength": [None if s.arm.kind == BEFORE else s.arm.strength for s in summaries],
        "prompts": [s.prompts for s in summaries],
        "mean_updates": [s.iterations for s in summaries],
        "share_reached": [s.reached for s in summaries],
    }
    columns |= _interval_columns("magnitude_all_steps", [s.magnitude for s in summaries])
    columns |= _interval_columns("magnitude_minimised", [s.statistic for s in summaries])
    for key in keys:
        columns |= _interval_columns(key, [s.likeness.get(key) for s in summaries])
    if any(s.clip for s in summaries):
        columns |= _interval_columns("clip_score", [s.clip for s in summaries])
    return columns


def _interval_columns(name: str, found: Sequence[Interval | None]) -> dict[str, list[Any]]:
    return {
        name: [None if i is None else i.value for i in found],
        f"{name}_low": [None if i is None else i.low for i in found],
        f"{name}_high": [None if i is None else i.high for i in found],
    }


def tradeoff_figure(summaries: Sequence[ArmSummary], names: Mapping[str, str]) -> bytes | None:
    """Draws likeness (left is better) against CLIP score (up is better), one panel a measure.

    Without CLIP scores the likeness alone, one row an arm. None where no likeness was measured.

    Args:
        summaries: One an arm; the one called ``before`` first.
        names: Measure → weights and preprocessing, written under its panel.
    """
    keys = list(dict.fromkeys(key for s in summaries for key in s.likeness))[:2]
    if not keys:
        return None
    if not any(s.clip for s in summaries):
        return _likeness_alone(summaries, keys)
    width = (FULL - 0.2) / 2
    left, room = 0.75, width - 0.95
    titles = [wrapped(name, *_NAME) for name in series(summaries)]
    columns, legend = legend_size(titles, width * len(keys) + 0.1 - left)
    figure = new_figure(width * len(keys) + 0.1, legend + _PANEL + 0.95)
    for place, key in enumerate(keys):
        axes = axes_at(figure, left + place * width, legend, room, _PANEL)
        _draw_panel(axes, summaries, key, named=place == 0)
        title = f"{measure_title(key)}, likeness to the training image"
        tidy(axes, title, "CLIP score with the prompt as asked" if place == 0 else "")
        below = wrapped(f"{names.get(key, key)}", int(room * 15.5), 3)
        text_at(
            figure, left + place * width, legend + _PANEL + 0.5, below,
            fontsize=TEXT - 1.5, color="#56606b",
        )  # fmt: skip
    first = figure.axes[0]
    first.legend(
        loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, frameon=False,
        fontsize=TEXT - 0.5, borderaxespad=0.1, handlelength=2.2, labelspacing=0.3,
        columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip
    return to_png(figure)


def series(summaries: Sequence[ArmSummary]) -> dict[str, list[ArmSummary]]:
    """Returns the prompt as asked, the targets, and every other arm by itself, by their names."""
    out: dict[str, list[ArmSummary]] = {}
    for s in summaries:
        name = {BEFORE: "as asked", TARGET: "embedding optimized, by target"}.get(s.arm.kind)
        out.setdefault(name or _own_name(s), []).append(s)
    return out


def _own_name(s: ArmSummary) -> str:
    """A baseline's name without its strength; of a mitigation the whole title."""
    plain = s.arm.title.rpartition(",")[0] if s.arm.kind == BASELINE else ""
    return plain or s.arm.title


def legend_size(names: Sequence[str], room: float) -> tuple[int, float]:
    """Returns a legend's columns, two where ``room`` inches hold them, and its height in inches."""
    half = -(-len(names) // 2)
    columns = [part for part in (names[:half], names[half:]) if part]
    longest = [max(len(line) for name in part for line in name.split("\n")) for part in columns]
    if sum(_MARK + chars / _CHARS for chars in longest) > room:
        columns = [names]
    return len(columns), 0.12 + 0.2 * max(
        sum(1 + name.count("\n") for name in part) for part in columns
    )


def _draw_panel(axes: Axes, summaries: Sequence[ArmSummary], key: str, *, named: bool) -> None:
    spare = 0
    for name, group in series(summaries).items():
        known = [s for s in group if s.clip is not None and key in s.likeness]
        known.sort(key=lambda s: s.arm.strength)
        if not known:
            continue
        color, marker, line = MEMORIZED, "o", "none"
        if known[0].arm.kind == TARGET:
            color, marker, line = ONCE, "s", "-"
        elif known[0].arm.kind in (NAMED, BASELINE):
            color, marker, line = _COLORS[spare % 6], _MARKERS[spare % 6], ":"
            spare += 1
        xs = [s.likeness[key].value for s in known]
        ys = [s.clip.value for s in known if s.clip is not None]
        label = escape_math(wrapped(name, *_NAME)) if named else None
        asked = known[0].arm.kind == BEFORE  # larger, and below a target that changed nothing
        axes.plot(xs, ys, color=color, marker=marker, ls=line, lw=1.6, ms=11 if asked else 7,
                  mec="white", mew=0.6, label=label, zorder=2.5 if asked else 3)  # fmt: skip
        for s in known:
            _whiskers(axes, s, key, color)
            if s.arm.kind != BEFORE and (len(known) > 1 or s.arm.kind == TARGET):
                number = f"{s.arm.strength:g}" if s.arm.strength else "all"
                axes.annotate(
                    number, (s.likeness[key].value, s.clip.value if s.clip else 0),
                    xytext=(5, 5), textcoords="offset points", fontsize=TEXT - 1, color=color,
                    zorder=4,
                )  # fmt: skip
    axes.margins(0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _whiskers(axes: Axes, s: ArmSummary, key: str, color: str) -> None:
    x, y = s.likeness[key], s.clip
    if y is None:
        return
    look: dict[str, Any] = {"color": color, "lw": 1.2, "alpha": 0.45, "zorder": 2}
    axes.plot([x.low, x.high], [y.value, y.value], **look)
    axes.plot([x.value, x.value], [y.low, y.high], **look)


def _likeness_alone(summaries: Sequence[ArmSummary], keys: Sequence[str]) -> bytes:
    panels = {
        f"{measure_title(key)} (further left = less alike)": {
            s.arm.title: [Estimate(*s.likeness[key])] for s in summaries if key in s.likeness
        }
        for key in keys
    }
    return dot_panels(panels)

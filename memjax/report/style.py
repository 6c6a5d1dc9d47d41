"""The drawing surface the figures share: one look, sizes in inches, PNG bytes out.

A figure ``w`` inches wide is shown ``100 w`` CSS pixels wide in the report, so text of 9.5 points
is read at 13 pixels. Colors are Okabe and Ito's; line styles and words always say the same.
"""

import functools
import io
import textwrap
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MEMORIZED, ONCE, HELD_OUT, INK, FAINT = "#D55E00", "#0072B2", "#4D4D4D", "#1B1F24", "#8A9099"
SERIES = (
    (MEMORIZED, "-"),
    (ONCE, "--"),
    (HELD_OUT, (0, (1, 1.2))),
    ("#009E73", "-."),
    ("#CC79A7", (0, (5, 1, 1, 1))),
)
TEXT = 9.5
FULL, HALF = 9.8, 4.8  # inches: the report's width, and half of it
_DPI = 200


class Style(NamedTuple):
    """How one group of prompts is drawn; color, marker and line each tell it from the others."""

    color: str
    marker: str
    line: Any


# A family of prompts looks the same in every figure. Its words: any of these within its name.
_FAMILY_STYLES = {
    "memorized": Style(MEMORIZED, "o", "-"),
    "once": Style(ONCE, "s", "--"),
    "held_out": Style(HELD_OUT, "^", (0, (1, 1.2))),
    "near_miss": Style("#009E73", "D", "-."),
    "random": Style("#CC79A7", "v", (0, (5, 1, 1, 1))),
}
_SPARE_STYLES = (
    Style("#56B4E9", "P", (0, (6, 2))),
    Style(INK, "*", (0, (1, 2.5))),
    Style("#E69F00", "X", (0, (3, 1, 1, 1, 1, 1))),
)
_FAMILY_WORDS = {  # "one detail beside a memorized prompt" is a near miss: the order decides
    "near_miss": ("near miss", "near-miss", "one detail", "beside a memorized"),
    "random": ("random",),
    "once": ("once", "other generated"),
    "held_out": ("held out", "held-out", "never"),
    "memorized": ("memorized", "memorized", "repeated", "copies of training", "loudest"),
}


def family_of(name: str) -> str | None:
    """Returns which family of prompts a group's name speaks of, or None."""
    if name in _FAMILY_WORDS:
        return name
    low = name.casefold()
    found = (f for f, words in _FAMILY_WORDS.items() if any(w in low for w in words))
    return next(found, None)


def family_styles(names: Iterable[str]) -> dict[str, Style]:
    """Returns a style a name: the family's own, else a spare one; none is given twice.

    Raises:
        ValueError: If there is no name, or more than styles.
    """
    asked = list(names)
    most = len(_FAMILY_STYLES) + len(_SPARE_STYLES)
    if not 1 <= len(asked) <= most:
        raise ValueError(
            f"{len(asked)} groups were given, expected 1 to {most}; draw fewer a figure."
        )
    taken: dict[str, Style] = {}
    for name in asked:
        style = _FAMILY_STYLES.get(family_of(name) or "")
        if style is not None and style not in taken.values():
            taken[name] = style
    first, second, *others = _FAMILY_STYLES.values()  # strangers never look memorized by choice
    order = (second, *_SPARE_STYLES, *others, first)
    spare = [style for style in order if style not in taken.values()]
    rest = [name for name in asked if name not in taken]
    return {**taken, **dict(zip(rest, spare, strict=False))}


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty white figure of that many inches, bound to the Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes by inches from the *top* left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def text_at(figure: Figure, left: float, top: float, text: str, **style) -> None:
    """Writes text by inches from the top left corner."""
    w, h = figure.get_size_inches()
    look: dict[str, Any] = {"fontsize": TEXT, "color": INK, "va": "top", "ha": "left"} | style
    figure.text(left / w, 1 - top / h, escape_math(text), **look)


def tidy(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Gives axes the house look: two spines, a light grid, readable labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=TEXT - 0.5, length=3)
    axes.grid(color="#E6E8EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(escape_math(xlabel), fontsize=TEXT, color=INK)
    axes.set_ylabel(escape_math(ylabel), fontsize=TEXT, color=INK)


def legend_above(axes: Axes, columns: int = 1, left: float = -0.02) -> None:
    """Puts the legend above the axes, at its left edge."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(left, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=TEXT - 0.5,
        borderaxespad=0.2,
        handlelength=2.6,
        labelspacing=0.3,
        labelcolor=INK,
    )


def wrapped(text: str, width: int, lines: int) -> str:
    """Breaks text into at most ``lines`` lines; what does not fit ends in an ellipsis."""
    if lines < 1:
        return ""
    parts = textwrap.wrap(
        printable(text), width, max_lines=lines, placeholder=" …", break_on_hyphens=False
    )
    return "\n".join(part if len(part) <= width else part[: width - 1] + "…" for part in parts)


def elided(text: str, width: int) -> str:
    """Shortens text to ``width`` signs from its middle: both ends tell prompts apart."""
    line = " ".join(printable(text).split())
    if len(line) <= width:
        return line
    room = (width - 3) // 2
    head, tail = line[: width - 3 - room], line[-room:]
    if " " in head.strip() and " " in tail.strip():  # whole words where there are any
        head, tail = head.rpartition(" ")[0], tail.partition(" ")[2]
    return f"{head.rstrip()} … {tail.lstrip()}"


@functools.cache
def _glyphs() -> frozenset[int]:
    """Code points that the figures' font can draw."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def printable(text: str) -> str:
    """Keeps what the figures' font can draw: other signs become "□", line breaks stay.

    The page and the tables show the text as it is; only images are limited to the font.
    """
    known = _glyphs()
    signs = unicodedata.normalize("NFC", str(text)).replace("\r\n", "\n").replace("\t", " ")
    kept = (
        c if c == "\n" or (ord(c) in known and unicodedata.category(c)[0] != "C") else "□"
        for c in signs
    )
    return "".join(kept)


def escape_math(text: str) -> str:
    """Keeps a dollar sign from being read as a formula, and signs without a glyph from warning."""
    return printable(text).replace("$", r"\$")


def to_png(figure: Figure) -> bytes:
    """Returns the figure as PNG bytes, the same for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()

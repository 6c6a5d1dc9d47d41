"""The drawing surface the figures share: one look, sizes in inches, PNG bytes out.

A figure ``w`` inches wide is shown ``100 w`` CSS pixels wide in the report, so text of 9.5 points
is read at 13 pixels. Colours are Okabe and Ito's; line styles and words always say the same.
"""

import io
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MEMORISED, ONCE, HELD_OUT, INK, FAINT = "#D55E00", "#0072B2", "#4D4D4D", "#1B1F24", "#8A9099"
SERIES = (
    (MEMORISED, "-"),
    (ONCE, "--"),
    (HELD_OUT, (0, (1, 1.2))),
    ("#009E73", "-."),
    ("#CC79A7", (0, (5, 1, 1, 1))),
)
TEXT = 9.5
_DPI = 200


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
    axes.set_xlabel(xlabel, fontsize=TEXT, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT, color=INK)


def wrapped(text: str, width: int, lines: int) -> str:
    """Breaks text into at most ``lines`` lines; what does not fit ends in an ellipsis."""
    if lines < 1:
        return ""
    return "\n".join(
        textwrap.wrap(text, width, max_lines=lines, placeholder=" …", break_on_hyphens=False)
    )


def escape_math(text: str) -> str:
    """Keeps a dollar sign in a caption from being read as a formula."""
    return text.replace("$", r"\$")


def to_png(figure: Figure) -> bytes:
    """Returns the figure as PNG bytes, the same for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()

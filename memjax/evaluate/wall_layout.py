"""How a wall of pictures is laid out: bands of rows, sizes in inches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from memjax.report.style import (
    FAINT,
    MEMORISED,
    TEXT,
    axes_at,
    new_figure,
    text_at,
    to_png,
    wrapped,
)

_GAP, _LINE, _BAR = 0.16, 0.172, 0.56
_CHARS = 13.5  # of caption text an inch
_DIFFERENCE_LIMIT = 0.5  # of the full grey range; larger differences are drawn like this one

Images = Float[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w"]


class Row(NamedTuple):
    """One row of a wall: its pictures, and the lines under each."""

    label: str
    images: np.ndarray
    verdicts: Sequence[str] | None = None
    copies: Sequence[bool] | None = None
    notes: Sequence[str] | None = None
    difference: bool = False


class Layout(NamedTuple):
    """Widths in inches; ``side`` is the largest edge of a picture, ``columns`` the most a band."""

    width: float = 9.8
    label: float = 1.12
    side: float = 2.0
    columns: int = 6


def check_pictures(images: Images, name: str, count: int) -> np.ndarray:
    """Returns ``[count, h, w, c]`` float32.

    Raises:
        ValueError: If the shape is another, or there is no picture.
    """
    array = np.asarray(images, np.float32)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or len(array) != count or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} has shape {array.shape} for {count} captions, "
            "expected [captions, height, width, 1 or 3]; pass one picture a caption."
        )
    if not count:
        raise ValueError(f"{name} holds no picture, expected at least one; leave the figure out.")
    return array


def draw_wall(rows: Sequence[Row], captions: Sequence[str], layout: Layout) -> bytes:
    """Draws rows of pictures, a caption over each column, in as many bands as are needed."""
    columns = max(min(layout.columns, len(captions)), 1)
    bar = _BAR if any(r.difference for r in rows) else 0.1
    room = (layout.width - layout.label - bar) / columns - _GAP
    side = min(room, layout.side)
    heads = [wrapped(c, int(side * _CHARS), 5) for c in captions]
    rows = [
        r._replace(notes=r.notes and [wrapped(n, int(side * _CHARS), 2) for n in r.notes])
        for r in rows
    ]
    tops, band = _band_heights(rows, heads, side)
    bands = -(-len(captions) // columns)
    width = layout.label + bar + columns * (side + _GAP)
    figure = new_figure(width, bands * band)
    for b in range(bands):
        chosen = range(b * columns, min((b + 1) * columns, len(captions)))
        _draw_band(figure, rows, heads, chosen, b * band, tops, side, layout.label)
    return to_png(figure)


def _band_heights(rows: Sequence[Row], heads: Sequence[str], side: float):
    """Top of every row of pictures within a band, and the band's height, in inches."""
    lines = max(1 + h.count("\n") for h in heads) if any(heads) else 0
    at = 0.08 + _LINE * lines + 0.05
    tops = []
    for row in rows:
        tops.append(at)
        lines = (row.verdicts is not None) + max(
            (1 + n.count("\n") for n in row.notes or ()), default=0
        )
        at += side + _LINE * lines + (0.16 if lines else 0.1)
    return tops, at


def _draw_band(figure: Figure, rows, heads, chosen, start: float, tops, side, label) -> None:
    for row, top in zip(rows, tops, strict=True):
        text_at(figure, 0.05, start + top + side / 2, row.label, va="center", weight="bold")
        for place, i in enumerate(chosen):
            left = label + place * (side + _GAP)
            _draw_picture(figure, row, i, left, start + top, side)
        if row.difference:
            _draw_bar(figure, label + len(chosen) * (side + _GAP), start + top, side)
    for place, i in enumerate(chosen):
        left = label + place * (side + _GAP)
        top = start + tops[0] - 0.06
        text_at(figure, left, top, heads[i], va="bottom", fontsize=TEXT - 0.5, linespacing=1.25)


def _draw_picture(figure: Figure, row: Row, i: int, left: float, top: float, side: float) -> None:
    axes = axes_at(figure, left, top, side, side)
    picture = row.images[i]
    if row.difference:
        style: dict[str, Any] = {"cmap": "magma", "vmin": 0.0, "vmax": _DIFFERENCE_LIMIT}
        picture = picture.mean(axis=-1)
    else:
        style = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
        picture = np.clip((picture + 1) / 2, 0, 1)
        picture = picture[..., 0] if picture.shape[-1] == 1 else picture
    axes.imshow(picture, interpolation="nearest", aspect="auto", **style)
    axes.set_xticks([])
    axes.set_yticks([])
    framed = row.copies is not None and bool(row.copies[i])
    for spine in axes.spines.values():
        spine.set(color=MEMORISED if framed else FAINT, linewidth=3.0 if framed else 0.8)
    below = top + side + 0.06
    words: dict[str, Any] = {"fontsize": TEXT - 0.5, "linespacing": 1.25}
    if row.verdicts:
        look = {"color": MEMORISED, "weight": "bold"} if framed else {}
        text_at(figure, left, below, row.verdicts[i], **words, **look)
        below += _LINE
    if row.notes:
        text_at(figure, left, below, row.notes[i], **words)


def _draw_bar(figure: Figure, left: float, top: float, side: float) -> None:
    """The key of the difference row: black = same, bright = half the grey range or more."""
    room = 0.16 if side > 0.7 else 0.14
    axes = axes_at(figure, left, top + room, 0.13, side - 2 * room)
    ramp = np.linspace(1, 0, 128)[:, None]
    axes.imshow(ramp, cmap="magma", aspect="auto", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    text_at(figure, left, top - 0.02, "large", fontsize=TEXT - 1)
    text_at(figure, left, top + side + 0.02, "none", fontsize=TEXT - 1, va="bottom")

"""A wall of repaired prompts: the training image, then what one noise gives arm by arm."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from memjax.report.style import FAINT, FULL, TEXT, axes_at, new_figure, text_at, to_png, wrapped

MOST_COLUMNS = 7
_TITLE_LINES = 4
_GAP, _LINE, _CHARS = 0.14, 0.166, 14.5  # inches, inches, characters an inch
_SIDE = 2.1


class Cell(NamedTuple):
    """One image of a wall: what stands over it and the lines under it."""

    title: str
    image: UInt8[np.ndarray, "h w c"]
    notes: Sequence[str] = ()


class PromptBand(NamedTuple):
    """One prompt of a wall: its text over a row of cells."""

    caption: str
    cells: Sequence[Cell]


def shown_columns(
    repairs: int, others: int, generations: int, with_reference: bool
) -> tuple[list[int], int]:
    """Returns which arms a wall shows, and how many generations of each.

    The prompt as asked (arm 0) and the repairs come first, from the first to the last of them; the
    other arms fill what room is left.

    Args:
        repairs: Arms of the repair, which follow arm 0.
        others: Arms after those.
        generations: Images of each.
        with_reference: Whether the first column is the training image.
    """
    room = MOST_COLUMNS - with_reference - 1
    own = _spread(1, repairs, room)
    chosen = [0, *own, *_spread(1 + repairs, others, room - len(own))]
    return chosen, max(1, min(generations, (room + 1) // len(chosen)))


def _spread(first: int, count: int, room: int) -> list[int]:
    """At most ``room`` of ``count`` numbers from ``first`` on, evenly, both ends among them."""
    if count <= room:
        return list(range(first, first + count))
    return np.unique(np.linspace(first, first + count - 1, room).round().astype(int)).tolist()


def repair_wall(bands: Sequence[PromptBand]) -> bytes:
    """Draws prompts under one another, their images side by side.

    Args:
        bands: One a prompt; all have the same number of cells.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no prompt or no image.
    """
    columns = max((len(band.cells) for band in bands), default=0)
    if not columns:
        raise ValueError("no image was given, expected at least one; leave the figure out.")
    side = min(_SIDE, (FULL - 0.1) / columns - _GAP)
    width = 0.1 + columns * (side + _GAP)
    heads = [wrapped(band.caption, int(width * _CHARS), 2) for band in bands]
    notes = max(len(cell.notes) for band in bands for cell in band.cells)
    titles = [_titles(band, side) for band in bands]
    heights = [
        0.1 + _LINE * (1 + head.count("\n")) + _LINE * _lines(title) + side + _LINE * notes + 0.26
        for head, title in zip(heads, titles, strict=True)
    ]
    figure = new_figure(width, sum(heights) + 0.05)
    top = 0.0
    for band, head, title, height in zip(bands, heads, titles, heights, strict=True):
        _draw_band(figure, band, head, title, top, side)
        top += height
    return to_png(figure)


def _titles(band: PromptBand, side: float) -> list[str]:
    return [wrapped(cell.title, max(int(side * _CHARS), 6), _TITLE_LINES) for cell in band.cells]


def _lines(texts: Sequence[str]) -> int:
    return max((1 + text.count("\n") for text in texts), default=0)


def _draw_band(
    figure: Figure, band: PromptBand, head: str, titles: Sequence[str], top: float, side: float
) -> None:
    text_at(figure, 0.1, top + 0.08, head, weight="bold", linespacing=1.2)
    first = top + 0.12 + _LINE * (1 + head.count("\n"))
    images = first + _LINE * _lines(titles) + 0.04
    for place, (cell, title) in enumerate(zip(band.cells, titles, strict=True)):
        left = 0.1 + place * (side + _GAP)
        style: dict[str, Any] = {"fontsize": TEXT - 1, "linespacing": 1.2}
        text_at(figure, left, images - 0.05, title, va="bottom", **style)
        _draw_cell(figure, cell, left, images, side)
        for line, note in enumerate(cell.notes):
            text_at(figure, left, images + side + 0.05 + line * _LINE, note, **style)


def _draw_cell(figure: Figure, cell: Cell, left: float, top: float, side: float) -> None:
    axes = axes_at(figure, left, top, side, side)
    image = cell.image[..., 0] if cell.image.shape[-1] == 1 else cell.image
    look: Mapping[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255}
    axes.imshow(image, interpolation="nearest", aspect="auto", **look)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.8)

"""Walls of pictures: generated beside nearest training picture, before beside after."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from memjax.evaluate.canvas import (
    FAINT,
    MEMORISED,
    TEXT,
    axes_at,
    new_figure,
    text_at,
    to_png,
    wrapped,
)

_WIDTH, _LABEL, _GAP, _LINE, _BAR = 9.8, 1.12, 0.16, 0.172, 0.56
_CHARS = 13.5  # of caption text an inch
_MAX_SIDE, _MAX_COLUMNS = 2.0, 6
_DIFFERENCE_LIMIT = 0.5  # of the full grey range; larger differences are drawn like this one

Images = Float[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w"]


class _Row(NamedTuple):
    label: str
    images: np.ndarray
    verdicts: Sequence[str] | None = None
    copies: Sequence[bool] | None = None
    notes: Sequence[str] | None = None
    difference: bool = False


def pairs_wall(
    generated: Images,
    nearest: Images,
    *,
    captions: Sequence[str],
    ratios: Sequence[float] | None = None,
    copies: Sequence[bool] | None = None,
    columns: int = 5,
) -> bytes:
    """Draws each generated picture above its nearest training picture and their difference.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training pictures, same shape.
        captions: What was asked for, one text a picture.
        ratios: ``ratio_adaptive`` of each; written under the picture.
        copies: Verdict of each; copies are framed and named.
        columns: Pictures side by side, at most 6; further ones start a new band.

    Returns:
        PNG bytes.
    """
    gen, near = _check(generated, "generated", captions), _check(nearest, "nearest", captions)
    gap = np.abs(gen - near) / 2
    rows = [
        _Row("Generated\nby the\nmodel", gen, _verdicts(ratios, copies), copies),
        _Row("Nearest\ntraining\npicture", near),
        _Row("Difference\n(black =\nsame)", gap, difference=True),
    ]
    return _wall(rows, captions, columns)


def before_after(
    nearest: Images,
    before: Images,
    after: Images,
    *,
    captions: Sequence[str],
    before_copies: Sequence[bool] | None = None,
    after_copies: Sequence[bool] | None = None,
    before_notes: Sequence[str] | None = None,
    after_notes: Sequence[str] | None = None,
    columns: int = 5,
) -> bytes:
    """Draws the training picture, and what the same noise gives before and after the repair.

    Args:
        nearest: Training picture nearest to ``before``, ``[n, h, w(, c)]`` in [-1, 1].
        before: Generated without mitigation.
        after: Generated with it, from the same initial noise.
        captions: What was asked for, one text a picture.
        before_copies: Verdict of each picture before.
        after_copies: Verdict of each picture after.
        before_notes: A second line under each, e.g. "cardiomegaly: seen".
        after_notes: Likewise.
        columns: Pictures side by side, at most 6.

    Returns:
        PNG bytes.
    """
    rows = [
        _Row("Training\npicture", _check(nearest, "nearest", captions)),
        _Row(
            "Generated\nbefore\nrepair",
            _check(before, "before", captions),
            _verdicts(None, before_copies),
            before_copies,
            before_notes,
        ),
        _Row(
            "Generated\nafter\nrepair",
            _check(after, "after", captions),
            _verdicts(None, after_copies),
            after_copies,
            after_notes,
        ),
    ]
    return _wall(rows, captions, columns)


def _check(images: Images, name: str, captions: Sequence[str]) -> np.ndarray:
    array = np.asarray(images, np.float32)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or len(array) != len(captions) or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} has shape {array.shape} for {len(captions)} captions, "
            "expected [captions, height, width, 1 or 3]; pass one picture a caption."
        )
    if not len(array):
        raise ValueError(f"{name} holds no picture, expected at least one; leave the figure out.")
    return array


def _verdicts(ratios: Sequence[float] | None, copies: Sequence[bool] | None) -> list[str] | None:
    """The line under each picture, e.g. "COPY (0.31)", or None where nothing is known."""
    if copies is None:
        return None if ratios is None else [f"({r:.2f})" for r in ratios]
    words = ["COPY" if c else "not a copy" for c in copies]
    if ratios is None:
        return words
    return [f"{word} ({r:.2f})" for word, r in zip(words, ratios, strict=True)]


def _wall(rows: Sequence[_Row], captions: Sequence[str], columns: int) -> bytes:
    columns = max(min(columns, _MAX_COLUMNS, len(captions)), 1)
    bar = _BAR if any(r.difference for r in rows) else 0.1
    room = (_WIDTH - _LABEL - bar) / columns - _GAP
    side = min(room, _MAX_SIDE)
    heads = [wrapped(c, int(side * _CHARS), 5) for c in captions]
    rows = [
        r._replace(notes=r.notes and [wrapped(n, int(side * _CHARS), 2) for n in r.notes])
        for r in rows
    ]
    tops, band = _band_heights(rows, heads, side)
    bands = -(-len(captions) // columns)
    width = _LABEL + bar + columns * (side + _GAP)
    figure = new_figure(width, bands * band)
    for b in range(bands):
        chosen = range(b * columns, min((b + 1) * columns, len(captions)))
        _draw_band(figure, rows, heads, chosen, b * band, tops, side)
    return to_png(figure)


def _band_heights(rows: Sequence[_Row], heads: Sequence[str], side: float):
    """Top of every row of pictures within a band, and the band's height, in inches."""
    at = 0.08 + _LINE * max(1 + h.count("\n") for h in heads) + 0.05
    tops = []
    for row in rows:
        tops.append(at)
        lines = (row.verdicts is not None) + max(
            (1 + n.count("\n") for n in row.notes or ()), default=0
        )
        at += side + _LINE * lines + (0.16 if lines else 0.1)
    return tops, at


def _draw_band(figure: Figure, rows, heads, chosen, start: float, tops, side: float) -> None:
    for row, top in zip(rows, tops, strict=True):
        text_at(figure, 0.05, start + top + side / 2, row.label, va="center", weight="bold")
        for place, i in enumerate(chosen):
            left = _LABEL + place * (side + _GAP)
            _draw_picture(figure, row, i, left, start + top, side)
        if row.difference:
            _draw_bar(figure, _LABEL + len(chosen) * (side + _GAP), start + top, side)
    for place, i in enumerate(chosen):
        left = _LABEL + place * (side + _GAP)
        top = start + tops[0] - 0.06
        text_at(figure, left, top, heads[i], va="bottom", fontsize=TEXT - 0.5, linespacing=1.25)


def _draw_picture(figure: Figure, row: _Row, i: int, left: float, top: float, side: float) -> None:
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
    axes = axes_at(figure, left, top + 0.16, 0.13, side - 0.32)
    ramp = np.linspace(1, 0, 128)[:, None]
    axes.imshow(ramp, cmap="magma", aspect="auto", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    text_at(figure, left, top - 0.02, "large", fontsize=TEXT - 1)
    text_at(figure, left, top + side + 0.02, "none", fontsize=TEXT - 1, va="bottom")

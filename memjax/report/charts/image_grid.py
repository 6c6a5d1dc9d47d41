"""Walls of images in bands: generated beside nearest training image, before beside after."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from memjax.report.style import (
    FAINT,
    MEMORIZED,
    TEXT,
    axes_at,
    new_figure,
    text_at,
    to_png,
    wrapped,
)
from memjax.report.wording import decimal

_GAP, _LINE, _BAR = 0.16, 0.172, 0.56
_CHARS = 13.5  # of caption text an inch
_DIFFERENCE_LIMIT = 0.5  # of the full gray range; larger differences are drawn like this one

Images = Float[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w"]
_MAX_COLUMNS = 6
_LABELS = ("Generated\nby the\nmodel", "Nearest\ntraining\nimage", "Difference\n(black =\nsame)")
_SHORT_LABELS = ("Made", "Nearest\ntraining\nimage", "Differ-\nence")


class Row(NamedTuple):
    """One row of a wall: its images, and the lines under each."""

    label: str
    images: np.ndarray
    verdicts: Sequence[str] | None = None
    copies: Sequence[bool] | None = None
    notes: Sequence[str] | None = None
    difference: bool = False


class Layout(NamedTuple):
    """Widths in inches; ``side`` is the largest edge of an image, ``columns`` the most a band."""

    width: float = 9.8
    label: float = 1.12
    side: float = 2.0
    columns: int = 6


def check_images(images: Images, name: str, count: int) -> np.ndarray:
    """Returns ``[count, h, w, c]`` float32.

    Raises:
        ValueError: If the shape is another, or there is no image.
    """
    array = np.asarray(images, np.float32)
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or len(array) != count or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} has shape {array.shape} for {count} captions, "
            "expected [captions, height, width, 1 or 3]; pass one image a caption."
        )
    if not count:
        raise ValueError(f"{name} holds no image, expected at least one; leave the figure out.")
    return array


def draw_wall(rows: Sequence[Row], captions: Sequence[str], layout: Layout) -> bytes:
    """Draws rows of images, a caption over each column, in as many bands as are needed."""
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
    """Top of every row of images within a band, and the band's height, in inches."""
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
            _draw_image(figure, row, i, left, start + top, side)
        if row.difference:
            _draw_bar(figure, label + len(chosen) * (side + _GAP), start + top, side)
    for place, i in enumerate(chosen):
        left = label + place * (side + _GAP)
        top = start + tops[0] - 0.06
        text_at(figure, left, top, heads[i], va="bottom", fontsize=TEXT - 0.5, linespacing=1.25)


def _draw_image(figure: Figure, row: Row, i: int, left: float, top: float, side: float) -> None:
    axes = axes_at(figure, left, top, side, side)
    image = row.images[i]
    if row.difference:
        style: dict[str, Any] = {"cmap": "magma", "vmin": 0.0, "vmax": _DIFFERENCE_LIMIT}
        image = image.mean(axis=-1)
    else:
        style = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
        image = np.clip((image + 1) / 2, 0, 1)
        image = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(image, interpolation="nearest", aspect="auto", **style)
    axes.set_xticks([])
    axes.set_yticks([])
    framed = row.copies is not None and bool(row.copies[i])
    for spine in axes.spines.values():
        spine.set(color=MEMORIZED if framed else FAINT, linewidth=3.0 if framed else 0.8)
    below = top + side + 0.06
    words: dict[str, Any] = {"fontsize": TEXT - 0.5, "linespacing": 1.25}
    if row.verdicts:
        look = {"color": MEMORIZED, "weight": "bold"} if framed else {}
        text_at(figure, left, below, row.verdicts[i], **words, **look)
        below += _LINE
    if row.notes:
        text_at(figure, left, below, row.notes[i], **words)


def _draw_bar(figure: Figure, left: float, top: float, side: float) -> None:
    """The key of the difference row: black = same, bright = half the gray range or more."""
    room = 0.16 if side > 0.7 else 0.14
    axes = axes_at(figure, left, top + room, 0.13, side - 2 * room)
    ramp = np.linspace(1, 0, 128)[:, None]
    axes.imshow(ramp, cmap="magma", aspect="auto", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    text_at(figure, left, top - 0.02, "large", fontsize=TEXT - 1)
    text_at(figure, left, top + side + 0.02, "none", fontsize=TEXT - 1, va="bottom")


def wall_order(similarity: Float[np.ndarray, " n"]) -> np.ndarray:
    """Returns the order of a wall: most similar first, unknown similarities last."""
    values = np.asarray(similarity, np.float64)
    return np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")


def sorted_wall(
    generated: Images,
    nearest: Images,
    *,
    captions: Sequence[str],
    similarity: Sequence[float] | Float[np.ndarray, " n"],
    copies: Sequence[bool] | None = None,
    measure: str = "similarity",
    written: Sequence[float] | Float[np.ndarray, " n"] | None = None,
    columns: int = 4,
) -> bytes:
    """Draws generated, nearest training image and difference, most similar pair first.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training images, same shape.
        captions: What was asked for, one text an image; stands over the column.
        similarity: Of each pair, higher = more alike; written under the image.
        copies: Verdict of each; copies are framed and named.
        measure: Name of the number under the image.
        written: That number where it is not ``similarity`` itself, e.g. a distance.
        columns: Images side by side; further ones start a new band.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no image, or the numbers of images and texts differ.
    """
    gen = check_images(generated, "generated", len(captions))
    near = check_images(nearest, "nearest", len(captions))
    order = wall_order(_one_each(similarity, "similarity", len(captions)))
    flags = None if copies is None else [bool(copies[i]) for i in order]
    said = _verdicts(None, flags)
    numbers = _one_each(similarity if written is None else written, "written", len(captions))
    values = [f"{measure} {_value(numbers[i])}" for i in order]
    rows = _pair_rows(gen[order], near[order], said, flags, _LABELS)
    rows[0] = rows[0]._replace(notes=values)
    layout = Layout(columns=min(columns, _MAX_COLUMNS))
    heads = [f"{place}. {captions[i]}" for place, i in enumerate(order, 1)]
    return draw_wall(rows, heads, layout)


def thumbnail_wall(
    generated: Images,
    nearest: Images,
    *,
    similarity: Sequence[float] | Float[np.ndarray, " n"],
    copies: Sequence[bool] | None = None,
    written: Sequence[float] | Float[np.ndarray, " n"] | None = None,
    columns: int = 4,
) -> bytes:
    """Draws a half-width wall of small images, to stand beside those of other arms.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training images, same shape.
        similarity: Of each pair, higher = more alike; sorts the wall.
        copies: Verdict of each.
        written: The number under each image where it is not ``similarity``, e.g. a distance.
        columns: Most images side by side, at most 4; further ones start a new band.

    Returns:
        PNG bytes.
    """
    gen = check_images(generated, "generated", len(similarity))
    near = check_images(nearest, "nearest", len(similarity))
    order = wall_order(np.asarray(similarity))
    flags = None if copies is None else [bool(copies[i]) for i in order]
    numbers = _one_each(similarity if written is None else written, "written", len(order))
    rows = _pair_rows(gen[order], near[order], _verdicts(None, flags), flags, _SHORT_LABELS)
    rows[0] = rows[0]._replace(notes=[_value(numbers[i]) for i in order])
    layout = Layout(width=4.8, label=0.72, side=0.86, columns=min(columns, 4))
    return draw_wall(rows, [""] * len(order), layout)


def pairs_wall(
    generated: Images,
    nearest: Images,
    *,
    captions: Sequence[str],
    ratios: Sequence[float] | None = None,
    copies: Sequence[bool] | None = None,
    columns: int = 5,
) -> bytes:
    """Draws each generated image above its nearest training image and their difference.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training images, same shape.
        captions: What was asked for, one text an image.
        ratios: ``ratio_adaptive`` of each; written under the image.
        copies: Verdict of each; copies are framed and named.
        columns: Images side by side, at most 6; further ones start a new band.

    Returns:
        PNG bytes.
    """
    gen = check_images(generated, "generated", len(captions))
    near = check_images(nearest, "nearest", len(captions))
    rows = _pair_rows(gen, near, _verdicts(ratios, copies), copies, _LABELS)
    return draw_wall(rows, captions, Layout(columns=min(columns, _MAX_COLUMNS)))


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
    """Draws the training image, and what the same noise gives before and after the repair.

    Args:
        nearest: Training image nearest to ``before``, ``[n, h, w(, c)]`` in [-1, 1].
        before: Generated without mitigation.
        after: Generated with it, from the same initial noise.
        captions: What was asked for, one text an image.
        before_copies: Verdict of each image before.
        after_copies: Verdict of each image after.
        before_notes: A second line under each, e.g. "cardiomegaly: seen".
        after_notes: Likewise.
        columns: Images side by side, at most 6.

    Returns:
        PNG bytes.
    """
    count = len(captions)
    first = Row("Training\nimage", check_images(nearest, "nearest", count))
    made = (
        ("Generated\nbefore\nrepair", before, "before", before_copies, before_notes),
        ("Generated\nafter\nrepair", after, "after", after_copies, after_notes),
    )
    rows = [
        Row(label, check_images(images, name, count), _verdicts(None, copies), copies, notes)
        for label, images, name, copies, notes in made
    ]
    return draw_wall([first, *rows], captions, Layout(columns=min(columns, _MAX_COLUMNS)))


def _pair_rows(gen, near, verdicts, copies, labels) -> list[Row]:
    return [
        Row(labels[0], gen, verdicts, copies),
        Row(labels[1], near),
        Row(labels[2], np.abs(gen - near) / 2, difference=True),
    ]


def _value(similarity: float) -> str:
    return decimal(float(similarity)) if np.isfinite(similarity) else "unknown"


def _one_each(values, name: str, count: int) -> np.ndarray:
    array = np.asarray(values, np.float64).ravel()
    if array.size != count:
        raise ValueError(f"{name} has {array.size} values for {count} images, expected one each.")
    return array


def _verdicts(ratios: Sequence[float] | None, copies: Sequence[bool] | None) -> list[str] | None:
    """The line under each image, e.g. "COPY (0.31)", or None where nothing is known."""
    if copies is None:
        return None if ratios is None else [f"({r:.2f})" for r in ratios]
    words = ["COPY" if c else "not a copy" for c in copies]
    if ratios is None:
        return words
    return [f"{word} ({r:.2f})" for word, r in zip(words, ratios, strict=True)]

"""Walls of pictures: generated beside nearest training picture, before beside after."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from memjax.evaluate.wall_layout import Images, Layout, Row, check_pictures, draw_wall
from memjax.report.wording import decimal

_MAX_COLUMNS = 6
_LABELS = ("Generated\nby the\nmodel", "Nearest\ntraining\npicture", "Difference\n(black =\nsame)")
_SHORT_LABELS = ("Made", "Nearest\ntraining\npicture", "Differ-\nence")


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
    """Draws generated, nearest training picture and difference, most similar pair first.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training pictures, same shape.
        captions: What was asked for, one text a picture; stands over the column.
        similarity: Of each pair, higher = more alike; written under the picture.
        copies: Verdict of each; copies are framed and named.
        measure: Name of the number under the picture.
        written: That number where it is not ``similarity`` itself, e.g. a distance.
        columns: Pictures side by side; further ones start a new band.

    Returns:
        PNG bytes.

    Raises:
        ValueError: If there is no picture, or the numbers of pictures and texts differ.
    """
    gen = check_pictures(generated, "generated", len(captions))
    near = check_pictures(nearest, "nearest", len(captions))
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
    """Draws a half-width wall of small pictures, to stand beside those of other arms.

    Args:
        generated: ``[n, h, w(, c)]`` in [-1, 1].
        nearest: Nearest training pictures, same shape.
        similarity: Of each pair, higher = more alike; sorts the wall.
        copies: Verdict of each.
        written: The number under each picture where it is not ``similarity``, e.g. a distance.
        columns: Most pictures side by side, at most 4; further ones start a new band.

    Returns:
        PNG bytes.
    """
    gen = check_pictures(generated, "generated", len(similarity))
    near = check_pictures(nearest, "nearest", len(similarity))
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
    gen = check_pictures(generated, "generated", len(captions))
    near = check_pictures(nearest, "nearest", len(captions))
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
    count = len(captions)
    first = Row("Training\npicture", check_pictures(nearest, "nearest", count))
    made = (
        ("Generated\nbefore\nrepair", before, "before", before_copies, before_notes),
        ("Generated\nafter\nrepair", after, "after", after_copies, after_notes),
    )
    rows = [
        Row(label, check_pictures(images, name, count), _verdicts(None, copies), copies, notes)
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
        raise ValueError(f"{name} has {array.size} values for {count} pictures, expected one each.")
    return array


def _verdicts(ratios: Sequence[float] | None, copies: Sequence[bool] | None) -> list[str] | None:
    """The line under each picture, e.g. "COPY (0.31)", or None where nothing is known."""
    if copies is None:
        return None if ratios is None else [f"({r:.2f})" for r in ratios]
    words = ["COPY" if c else "not a copy" for c in copies]
    if ratios is None:
        return words
    return [f"{word} ({r:.2f})" for word, r in zip(words, ratios, strict=True)]

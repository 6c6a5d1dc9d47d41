"""Which images fine-tuning repeats: a memorized set among others, or a weighted draw.

References:
    Wen et al., ICLR 2024, §5.2 (200 images 200 times each among three times as many others);
    Somepalli et al. 2023, arXiv 2305.20086, §4 (5 % of the rows drawn five times as often).
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from memjax.data.duplication import duplicate_weights
from memjax.data.labels.slots import suggestion
from memjax.data.records import Record

BY_REPEATS = "repeats"


class Planted(NamedTuple):
    """How often each training row is seen.

    Attributes:
        duplicated: Rows that are seen more often than the others.
        repeats: Times a row stands in one epoch (0: not at all), or None where rows are weighted.
        weights: Sampling weights, or None where rows are repeated.
    """

    duplicated: Bool[np.ndarray, " n"]
    repeats: Int[np.ndarray, " n"] | None
    weights: Float64[np.ndarray, " n"] | None

    @property
    def trained(self) -> Bool[np.ndarray, " n"]:
        """Rows that are seen at all."""
        return np.ones(len(self.duplicated), bool) if self.repeats is None else self.repeats > 0


def plant_duplicates(
    records: Sequence[Record],
    root: str | os.PathLike[str],
    *,
    seed: int,
    memorized: str = "",
    repeats: int = 1,
    others_ratio: float | None = None,
    fraction: float = 0.0,
    factor: float = 5.0,
) -> Planted:
    """Decides how often each row is seen.

    Args:
        records: Training records.
        root: Folder they lie in.
        seed: Decides what is drawn.
        memorized: Which rows stand ``repeats`` times: a sub-folder of ``root``; a number of rows,
            drawn by seed; ``repeats``, for those whose line of ``metadata.jsonl`` has a ``repeats``
            above 1, which then counts; or empty for none.
        repeats: Times a memorized row stands in an epoch.
        others_ratio: Other rows in an epoch, as a multiple of the memorized rows' places; they are
            drawn by seed and stand once. None takes every other row once.
        fraction: Share of rows drawn ``factor`` times as often, instead of a memorized set.
        factor: See ``fraction``.

    Raises:
        ValueError: The set is empty or everything, there are not enough others, or both ways are
            asked for at once.
    """
    if fraction and memorized:
        raise ValueError(
            f"fine_tune.memorized={memorized!r} and data.duplicate_fraction={fraction} are two "
            "ways of duplicating: set one of them to nothing."
        )
    if fraction:
        weights = duplicate_weights(seed, len(records), fraction, factor)
        return Planted(weights > 1 if factor > 1 else weights != 1, None, weights)
    if not memorized:
        return Planted(np.zeros(len(records), bool), np.ones(len(records), np.int64), None)
    chosen = _chosen(records, os.fspath(root), memorized, seed)
    counts = np.where(chosen, _counts(records, memorized, repeats), 0)
    others = np.flatnonzero(~chosen)
    if others_ratio is not None:
        others = _draw_others(others, round(others_ratio * int(counts.sum())), others_ratio, seed)
    counts[others] = 1
    return Planted(chosen, counts, None)


def _counts(records: Sequence[Record], memorized: str, repeats: int) -> np.ndarray:
    if memorized == BY_REPEATS:
        return np.array([record.repeats for record in records], np.int64)
    if repeats < 1:
        raise ValueError(f"fine_tune.repeats is {repeats}, expected at least 1.")
    return np.full(len(records), repeats, np.int64)


def _chosen(records: Sequence[Record], root: str, memorized: str, seed: int) -> np.ndarray:
    if memorized == BY_REPEATS:
        chosen = np.array([record.repeats > 1 for record in records])
        found = "no line of metadata.jsonl has a 'repeats' above 1"
    elif memorized.isdecimal():
        chosen = np.zeros(len(records), bool)
        count = min(int(memorized), len(records))
        chosen[np.random.default_rng([seed, 11]).permutation(len(records))[:count]] = True
        found = "no row was asked for"
    else:
        places = [_place(record.path, root) for record in records]
        folder = memorized.strip("/") + "/"
        chosen = np.array([place.startswith(folder) for place in places])
        known = sorted({place.rpartition("/")[0] for place in places if "/" in place})
        found = f"no training image lies there{suggestion(memorized, known)}"
    if not chosen.any():
        raise ValueError(
            f"fine_tune.memorized={memorized!r}: {found}; give a sub-folder of {root}, a number of "
            f"rows, or {BY_REPEATS!r}."
        )
    if chosen.all():
        raise ValueError(
            f"fine_tune.memorized={memorized!r} takes all {len(records)} training images: leave "
            "others to compare with."
        )
    return chosen


def _place(path: str, root: str) -> str:
    return path[len(root) :].lstrip("/") if path.startswith(root) else path


def _draw_others(others: np.ndarray, wanted: int, ratio: float, seed: int) -> np.ndarray:
    if not 0 <= wanted <= len(others):
        possible = len(others) / max(wanted, 1) * ratio
        raise ValueError(
            f"fine_tune.others_ratio={ratio} asks for {wanted} other images and the data has "
            f"{len(others)}: add images, lower fine_tune.repeats, or set the ratio to at most "
            f"{possible:.4g}."
        )
    return np.sort(np.random.default_rng([seed, 12]).permutation(others)[:wanted])

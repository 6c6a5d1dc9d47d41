"""How many training images, and patients, were memorized? Dar et al.'s two percentages."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.bootstrap import Interval, rate_interval

VALIDATION_PERCENTILE = 95.0
POSITIVE_PERCENTILE = 5.0


class MemorizedPatients(NamedTuple):
    """Shares in [0, 1] with intervals.

    Attributes:
        pictures: Training images that have a generated copy (Dar et al.'s ``N_mem``); patients
            are resampled.
        patients: Training patients with at least one such image.
        copies: Generated images that are copies (``N_copies``); conditions are resampled.
        num_train: Training images.
        num_patients: Training patients.
        num_generated: Generated images.
    """

    pictures: Interval
    patients: Interval
    copies: Interval
    num_train: int
    num_patients: int
    num_generated: int


def validation_threshold(
    similarity: Float[np.ndarray, " m"], percentile: float = VALIDATION_PERCENTILE
) -> float:
    """Returns the similarity above which a generated image is a copy, from real images.

    Args:
        similarity: ``[m]``, of each validation image to its nearest training image of another
            patient. By construction 5 % of such images lie above the 95th percentile: that is the
            rate of false copies to compare with.
        percentile: 95 in the paper.

    Raises:
        ValueError: If there are no values or one is not finite.

    References:
        arXiv 2402.01054, methods.
    """
    return float(np.percentile(_finite(similarity), percentile))


def positive_threshold(
    similarity: Float[np.ndarray, " m"], percentile: float = POSITIVE_PERCENTILE
) -> float:
    """Returns the similarity above which a generated image is a copy, from known copies.

    Args:
        similarity: ``[m]``, of pairs that are copies: training images and augmented versions of
            themselves. 95 % of them are found; how many real images are called by mistake is not
            controlled, so give the share of validation images above it next to it.
        percentile: 5 in a later re-implementation of the paper's method.

    Raises:
        ValueError: If there are no values or one is not finite.
    """
    return float(np.percentile(_finite(similarity), percentile))


def copies_above(
    similarity: ArrayLike, threshold: float | Float[np.ndarray, " q"]
) -> Bool[np.ndarray, " q"]:
    """Returns which similarities exceed the threshold (one, or one an image)."""
    return _finite(similarity) > threshold


def memorized_patients(
    is_copy: ArrayLike,
    index: ArrayLike,
    patients: ArrayLike,
    *,
    conditions: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> MemorizedPatients:
    """Returns the share of training images and patients with a copy, and the share of copies.

    Args:
        is_copy: ``[q]``, whether a generated image copies its nearest training image
            (:func:`copies_above`).
        index: ``[q]``, the row of that training image.
        patients: ``[t]``, the patient of each training image, for the whole training set.
        conditions: ``[q]``, the prompt of each generated image; None: every image its own.
        n: Bootstrap replicates.
        seed: Of the bootstrap.
        level: Coverage.

    .. note:: A copy counts for its nearest training image alone, so of two exact duplicates one
        counts as memorized. The shares of training images and patients grow with the number of
        generated images: compare runs with equal numbers. Their intervals are conditional on the
        images that were generated.

    Raises:
        ValueError: If lengths differ, or a copy points outside the training set.

    References:
        arXiv 2402.01054, methods: patient data memorization and copy candidates.
    """
    copied, row, owner = _check(is_copy, index, patients)
    has_copy = np.zeros(len(owner), bool)
    has_copy[row[copied]] = True
    number = np.unique(owner, return_inverse=True)[1].ravel()
    patient_has = np.bincount(number, has_copy) > 0
    options: dict[str, Any] = {"n": n, "seed": seed, "level": level}
    return MemorizedPatients(
        pictures=rate_interval(has_copy, number, **options),
        patients=rate_interval(patient_has, **options),
        copies=rate_interval(copied, conditions, **options),
        num_train=len(owner),
        num_patients=len(patient_has),
        num_generated=len(copied),
    )


def dar_summary(name: str, title: str, found: MemorizedPatients) -> dict[str, Any]:
    """Returns one row for the results: shares with intervals, and what they are shares of."""
    row: dict[str, Any] = {"rung": name, "title": title}
    for key, interval in (
        ("memorized_share", found.pictures),
        ("patients_share", found.patients),
        ("copies_share", found.copies),
    ):
        row |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    return row | {k: getattr(found, k) for k in ("num_train", "num_patients", "num_generated")}


def _check(
    is_copy: ArrayLike, index: ArrayLike, patients: ArrayLike
) -> tuple[Bool[np.ndarray, " q"], Int[np.ndarray, " q"], np.ndarray]:
    copied, row, owner = np.asarray(is_copy, bool), np.asarray(index), np.asarray(patients)
    if copied.ndim != 1 or copied.shape != row.shape or not copied.size or owner.ndim != 1:
        raise ValueError(
            f"shapes {copied.shape} of is_copy and {row.shape} of index were given, expected one "
            "of each a generated image; take both from the same comparison."
        )
    outside = copied & ((row < 0) | (row >= len(owner)))
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"generated image {at} copies training row {row[at]}, expected 0 to "
            f"{len(owner) - 1}; pass the patient of every training image."
        )
    return copied, row, owner


def _finite(values: ArrayLike) -> np.ndarray:
    v = np.asarray(values, np.float64)
    if not v.size or not np.isfinite(v).all():
        raise ValueError(
            f"{v.size} similarities were given, expected at least one and all finite; "
            "leave failed images out."
        )
    return v

"""Memorized, spurious or generalized: is a generation near a training image, or only near others?

A spurious image came back although nobody trained on it: the model has made an attractor of its
own. Both limits are fitted on real images, since published ones contradict each other.

References:
    Pham et al. 2025, arXiv 2505.21777.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike

from memjax.evaluate.similarity.knn import Groups, knn
from memjax.evaluate.statistics.bootstrap import rate_interval, with_interval

MEMORIZED, SPURIOUS, GENERALIZED = KINDS = ("memorized", "spurious", "generalized")
PERCENTILE = 1.0


class Limits(NamedTuple):
    """Euclidean distances at or below which an image is near another.

    Attributes:
        memorized: To the nearest training image.
        spurious: To the nearest other generation, for sets of one size.
    """

    memorized: float
    spurious: float


class ThreeWay(NamedTuple):
    """The kind of every image, and the distances that decide it.

    Attributes:
        kind: One of :data:`KINDS`.
        to_training: Distance to the nearest training image.
        to_others: Distance to the nearest other image of the set.
    """

    kind: Shaped[np.ndarray, " g"]
    to_training: Float[np.ndarray, " g"]
    to_others: Float[np.ndarray, " g"]


def fit_limits(
    training: ArrayLike,
    held_out: ArrayLike,
    size: int,
    *,
    patients: Groups | None = None,
    held_patients: Groups | None = None,
    percentile: float = PERCENTILE,
    seed: int = 0,
) -> Limits:
    """Returns the distances that a small share of real images reaches.

    ``memorized``: of held-out images to the nearest training image. ``spurious``: between training
    images of different patients in a draw of as many as there are generations, because the nearest
    of more images is nearer.

    Args:
        training: ``[n, ...]`` floats *without exact duplicates*.
        held_out: ``[m, ...]`` floats.
        size: How many generations will be split.
        patients: Of each training image.
        held_patients: Of each held-out image; the same patient is left out.
        percentile: Of the distances, in percent.
        seed: Of the draw; all training images are taken where there are not ``size`` of them.

    Raises:
        ValueError: If ``percentile`` is not in (0, 100), or fewer than two images of a kind come.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"percentile is {percentile}, expected a number between 0 and 100.")
    train, held = np.asanyarray(training), np.asanyarray(held_out)
    if min(len(train), len(held), size) < 2:
        raise ValueError(
            f"{len(train)} training, {len(held)} held-out and {size} generated pictures: "
            "expected at least two of each."
        )
    pair = None if patients is None or held_patients is None else (held_patients, patients)
    near = knn(held, train, 1, exclude_groups=pair)[0][:, 0]
    rows = np.random.default_rng(seed).permutation(len(train))[:size]
    own = None if patients is None else np.asarray(patients)[np.sort(rows)]
    drawn = train[np.sort(rows)]
    groups = None if own is None else (own, own)
    among = knn(drawn, drawn, 1, exclude_self=True, exclude_groups=groups)[0][:, 0]
    return Limits(*(_low(values, percentile) for values in (near, among)))


def _low(values: np.ndarray, percentile: float) -> float:
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError("no picture of another patient is there to compare with: give more.")
    return float(np.percentile(known, percentile))


def three_way(images: ArrayLike, training: ArrayLike, limits: Limits) -> ThreeWay:
    """Returns whether each image is memorized, spurious or generalized.

    Memorized: near a training image. Spurious: not, but near another image of the set. Split
    held-out images by the same limits to see how often each kind is said by mistake.

    Args:
        images: ``[g, ...]`` floats, at least two.
        training: ``[n, ...]`` floats in the same unit.
        limits: Of :func:`fit_limits`, or numbers of one's own.

    Raises:
        ValueError: If there are fewer than two images.
    """
    rows = np.asanyarray(images)
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} pictures have no others, expected at least two.")
    near = knn(rows, training, 1)[0][:, 0]
    others = knn(rows, rows, 1, exclude_self=True)[0][:, 0]
    spurious = np.where(others <= limits.spurious, SPURIOUS, GENERALIZED)
    return ThreeWay(np.where(near <= limits.memorized, MEMORIZED, spurious), near, others)


def three_way_summary(split: ThreeWay, clusters: ArrayLike | None = None) -> dict[str, Any]:
    """Returns the share of each kind with its interval; whole clusters (prompts) are resampled."""
    found: dict[str, Any] = {"num": len(split.kind)}
    for kind in KINDS:
        found |= with_interval(kind, rate_interval(split.kind == kind, clusters))
    return found

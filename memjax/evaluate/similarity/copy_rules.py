"""Is a generated image a copy of a training image? Two published rules and a background."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from memjax.evaluate.similarity.knn import Groups, knn, unique_rows

__all__ = [
    "SimilarityResult",
    "adaptive_l2",
    "copy_report",
    "knn",
    "nearest_ratio",
    "neighbor_report",
    "pixel_rms",
    "unique_rows",
]

COPY_RATIO_ADAPTIVE = 1.0
COPY_RATIO_THIRD = 1.0 / 3.0


class SimilarityResult(NamedTuple):
    """What the nearest training images say about each query.

    Attributes:
        distance: ``‖x̂ − x‖₂`` to the nearest training image.
        index: That image's row in the database as it was passed in (duplicates included).
        ratio_adaptive: ``d₁ / (α · mean of the n nearest distances)``; a copy is ≤ 1.
        ratio_third: ``d₁ / d₂``; a copy is < 1/3.
        is_copy_adaptive: Copy by the calibrated ratio.
        is_copy_third: Copy by the 1/3 rule.
        is_copy_background: ``ratio_adaptive`` at or below ``background_threshold``.
        background_threshold: The low percentile of the background's ``ratio_adaptive``;
            NaN (and no ``is_copy_background``) without a background.
    """

    distance: Float[np.ndarray, " q"]
    index: Int[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    ratio_adaptive: Float[np.ndarray, " q"]
    ratio_third: Float[np.ndarray, " q"]
    is_copy_adaptive: Bool[np.ndarray, " q"]
    is_copy_third: Bool[np.ndarray, " q"]
    is_copy_background: Bool[np.ndarray, " q"]
    background_threshold: float


def adaptive_l2(
    queries: ArrayLike, database: ArrayLike, *, alpha: float = 0.5, n: int = 50, **search
) -> Float[np.ndarray, " q"]:
    """Returns Carlini et al.'s calibrated distance; a query is a copy where it is ≤ 1.

    ``ℓ(x̂, x; S) = ‖x̂ − x‖₂ / (α · mean_{y ∈ S} ‖x̂ − y‖₂)`` with ``x`` the nearest training image
    and ``S`` the ``n`` nearest (``x`` among them).

    Args:
        queries: ``[Q, ...]`` floats.
        database: ``[N, ...]`` floats *without duplicates* (see :func:`unique_rows`).
        alpha: Scale; 0.5 in the paper.
        n: Size of the neighborhood; 50 in the paper.
        **search: Passed to :func:`knn` (groups to exclude, block size).

    References:
        arXiv 2301.13188, section 5.1.
    """
    return _adaptive(knn(queries, database, n, **search)[0], alpha)


def nearest_ratio(queries: ArrayLike, database: ArrayLike, **search) -> Float[np.ndarray, " q"]:
    """Returns ``d₁ / d₂``, the nearest distance over the second nearest; a copy is below 1/3.

    Args:
        queries: ``[Q, ...]`` floats.
        database: ``[N, ...]`` floats *without duplicates* (see :func:`unique_rows`).
        **search: Passed to :func:`knn`.

    References:
        Yoon et al., ICML 2023 SPIGM workshop; arXiv 2310.02664, section 2.
    """
    distance = knn(queries, database, 2, **search)[0]
    return _ratio(distance[:, 0], distance[:, 1])


def copy_report(
    queries: ArrayLike,
    database: ArrayLike,
    *,
    groups: Groups | None = None,
    patients: Groups | None = None,
    query_patients: Groups | None = None,
    background: SimilarityResult | None = None,
    percentile: float = 5.0,
    alpha: float = 0.5,
    n: int = 50,
    block: int = 4096,
) -> SimilarityResult:
    """Applies both copy rules to each query, against the database without its duplicates.

    Call it once on held-out real images (``query_patients=`` theirs) for the background, then on
    generated images with ``background=`` that result.

    Args:
        queries: ``[Q, ...]`` floats in ``[-1, 1]``.
        database: ``[N, ...]`` training images in the same unit; may hold exact duplicates.
        groups: Content group of each database row; the first row of a group stands for it.
            None: every row is its own.
        patients: Patient of each database row. The second-nearest distance of the 1/3 rule is then
            taken from *another* patient than the nearest image's, as follow-up films look alike.
        query_patients: Patient of each query (real images); the same patient is left out.
        background: Result on real images that were not trained on.
        percentile: Of the background's ``ratio_adaptive``, in percent: the calibrated threshold.
        alpha: Of the calibrated ratio.
        n: Neighborhood of the calibrated ratio.
        block: Database rows ranked at a time.

    Raises:
        ValueError: If ``query_patients`` is given without ``patients``, or fewer than ``n``
            images are left once duplicates are removed.
    """
    db = np.asanyarray(database)
    rows = np.arange(len(db)) if groups is None else unique_rows(_one_each(groups, db, "groups"))
    _check_report(query_patients, patients, len(rows), n)
    owner = None if patients is None else np.asarray(_one_each(patients, db, "patients"))[rows]
    exclude = None
    if query_patients is not None and owner is not None:
        exclude = (query_patients, owner)
    kept = db if len(rows) == len(db) else db[rows]
    distance, index = knn(queries, kept, n, exclude_groups=exclude, block=block)
    return neighbor_report(
        distance,
        index,
        rows,
        owner=owner,
        background=background,
        percentile=percentile,
        alpha=alpha,
    )


def neighbor_report(
    distance: Float[np.ndarray, "q n"],
    index: Int[np.ndarray, "q n"],
    rows: Int[np.ndarray, " u"],
    *,
    owner: np.ndarray | None = None,
    background: SimilarityResult | None = None,
    percentile: float = 5.0,
    alpha: float = 0.5,
) -> SimilarityResult:
    """Applies both copy rules to neighbors that were found by any distance.

    Args:
        distance: ``[q, n]``, nearest first; inf where there is no neighbor.
        index: ``[q, n]``, each neighbor's place in ``rows``; -1 where there is none.
        rows: ``[u]``, the row of each place in the database as the caller counts it.
        owner: ``[u]``, patient of each place; see :func:`copy_report`.
        background: Result on real images that were not trained on.
        percentile: Of the background's ``ratio_adaptive``, in percent.
        alpha: Of the calibrated ratio.
    """
    adaptive = _adaptive(distance, alpha)
    third = _ratio(distance[:, 0], _second(distance, index, owner))
    threshold = _background_threshold(background, percentile)
    return SimilarityResult(
        distance=distance[:, 0],
        index=np.where(index[:, 0] >= 0, rows[index[:, 0]], -1),
        ratio_adaptive=adaptive,
        ratio_third=third,
        is_copy_adaptive=adaptive <= COPY_RATIO_ADAPTIVE,
        is_copy_third=third < COPY_RATIO_THIRD,
        is_copy_background=adaptive <= threshold,
        background_threshold=threshold,
    )


def pixel_rms(distance: Float[np.ndarray, " *s"], num_values: int) -> Float[np.ndarray, " *s"]:
    """Converts ``‖a − b‖₂`` of images in [-1, 1] to the RMS difference a pixel in [0, 1] units.

    ``d / (2 √num_values)``; Carlini et al.'s (ℓ, δ)-extraction uses this unit (δ = 0.15).

    References:
        arXiv 2301.13188, section 4.1.
    """
    return distance / (2.0 * np.sqrt(num_values))


def _adaptive(distance: np.ndarray, alpha: float) -> np.ndarray:
    finite = np.isfinite(distance)
    total = np.where(finite, distance, 0.0).sum(axis=1, dtype=np.float64)
    return _ratio(distance[:, 0], alpha * total / np.maximum(finite.sum(axis=1), 1))


def _ratio(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """``near / far``; no eligible neighbor gives ``inf`` (no copy), all at zero gives 0."""
    near64, far64 = near.astype(np.float64), far.astype(np.float64)
    bottom = np.where((far64 > 0) & np.isfinite(far64), far64, 1.0)
    ratio = np.where(np.isinf(far64) & np.isfinite(near64), 0.0, near64 / bottom)
    return np.where(np.isinf(near64), np.inf, ratio)


def _second(distance: np.ndarray, index: np.ndarray, owner: np.ndarray | None) -> np.ndarray:
    """Second-nearest distance, from another patient than the nearest where patients are known.

    If all ``n`` neighbors are the nearest one's patient, the last distance is a lower bound.
    """
    if owner is None:
        return distance[:, min(1, distance.shape[1] - 1)]
    other = (owner[index] != owner[index[:, :1]]) & (index >= 0)
    at = np.where(other.any(axis=1), other.argmax(axis=1), distance.shape[1] - 1)
    return np.take_along_axis(distance, at[:, None], axis=1)[:, 0]


def _background_threshold(background: SimilarityResult | None, percentile: float) -> float:
    if background is None:
        return float("nan")
    ratio = background.ratio_adaptive[np.isfinite(background.ratio_adaptive)]
    return float(np.percentile(ratio, percentile)) if ratio.size else float("nan")


def _one_each(groups: Groups, db: np.ndarray, name: str) -> Groups:
    if len(groups) != len(db):
        raise ValueError(
            f"{name} has {len(groups)} entries for {len(db)} database rows; give one a row."
        )
    return groups


def _check_report(query_patients: object, patients: object, num_unique: int, n: int) -> None:
    if query_patients is not None and patients is None:
        raise ValueError(
            "query_patients was given without patients; pass the patient of each database row too."
        )
    if num_unique < max(n, 2):
        raise ValueError(
            f"{num_unique} different database images are left for a neighborhood of n={n}; "
            f"pass n between 2 and {num_unique} or add training images."
        )

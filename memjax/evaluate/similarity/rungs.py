"""The rungs of the similarity ladder: pixels, shifts, structure, and the direction of features."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from memjax.evaluate.features.base import (
    FeatureFn,
    FindingFeatures,
    Images,
    Normaliser,
    PixelFeatures,
    centred,
    extract,
    unit_length,
)
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.rung import NEIGHBOURHOOD, Nearest, Rung, Search, excluded
from memjax.evaluate.similarity.copy_rules import (
    COPY_RATIO_ADAPTIVE,
    COPY_RATIO_THIRD,
    SimilarityResult,
    copy_report,
    pixel_rms,
)
from memjax.evaluate.similarity.knn import Groups, knn
from memjax.evaluate.structural_search import structural_rungs


def pixel_rungs(image_shape: tuple[int, ...], *, max_shift: int = 2) -> list[Rung]:
    """Returns the rungs that need no network.

    Args:
        image_shape: ``(height, width, channels)``; decides which scales of MS-SSIM fit.
        max_shift: Largest shift of ``ncc`` in pixels, either way, down and across.
    """
    return [
        Rung("pixel_l2", "Pixel distance (RMS, negated)", "L0", _distance),
        Rung(
            "adaptive_l2", "Calibrated distance ratio (negated)", "L0",
            partial(_by_report, _adaptive), -COPY_RATIO_ADAPTIVE, True,
            "distance at most half the mean of the 50 nearest",
        ),
        Rung(
            "nearest_third", "Nearest over second-nearest distance (negated)", "L0",
            partial(_by_report, _third), -COPY_RATIO_THIRD, False,
            "nearest distance below a third of the second nearest",
        ),
        feature_rung(
            PixelFeatures(), name="pearson", title="Pearson correlation of pixels", level="L0",
            normaliser=centred,
        ),
        Rung(
            "ncc", f"Cross-correlation, best shift within {max_shift} pixels", "L0",
            partial(_shifted, max_shift),
        ),
        *structural_rungs(min(image_shape[:2])),
    ]  # fmt: skip


def feature_rung(
    feature_fn: FeatureFn,
    *,
    name: str | None = None,
    title: str | None = None,
    level: str = "L3",
    normaliser: Normaliser = unit_length,
    published: float | None = None,
    rule: str = "",
) -> Rung:
    """Returns the rung that compares pictures by the direction of their features.

    Args:
        feature_fn: Any feature extractor, the user's own weights for one.
        name: Key of its results; None takes ``feature_fn.name``.
        title: Heading; None takes ``feature_fn.name``.
        level: See :class:`Rung`.
        normaliser: :func:`~memjax.evaluate.features.base.unit_length` (cosine) or
            :func:`~memjax.evaluate.features.base.centred` (Pearson correlation).
        published: A published threshold of the similarity; None calibrates one.
        rule: That rule in a phrase.
    """
    label = feature_fn.name
    build = partial(_by_direction, feature_fn, normaliser)
    return Rung(name or label, title or label, level, build, published, False, rule)


def copy_rung(encoder: FeatureFn) -> Rung:
    """Returns the rung of a trained :class:`~memjax.evaluate.features.copy_encoder.CopyEncoder`."""
    title = "Contrastive copy encoder"
    return feature_rung(encoder, name="copy_encoder", title=title, level="L2", normaliser=centred)


def finding_rung(judge: Judge) -> Rung:
    """Returns the rung that compares what the project's own finding classifier sees."""
    title = "Finding classifier's features"
    features = FindingFeatures(judge)
    return feature_rung(
        features, name="finding_features", title=title, level="L2", normaliser=centred
    )


def _distance(train: Images, owner: Groups | None) -> Search:
    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        distance, index = knn(queries, train, 1, exclude_groups=excluded(query_owner, owner))
        rms = pixel_rms(distance[:, 0].astype(np.float64), int(np.prod(train.shape[1:])))
        return Nearest(-rms, index[:, 0])

    return search


def _adaptive(report: SimilarityResult) -> np.ndarray:
    return report.ratio_adaptive


def _third(report: SimilarityResult) -> np.ndarray:
    return report.ratio_third


def _by_report(
    ratio: Callable[[SimilarityResult], np.ndarray], train: Images, owner: Groups | None
) -> Search:
    n = min(NEIGHBOURHOOD, len(train))
    few = ratio is _adaptive and n < NEIGHBOURHOOD
    note = f"only {n} training pictures for the mean" if few else ""

    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        known = None if owner is None else query_owner
        report = copy_report(queries, train, patients=owner, query_patients=known, n=n)
        return Nearest(-ratio(report), report.index, note)

    return search


def _by_direction(
    feature_fn: FeatureFn, normaliser: Normaliser, train: Images, owner: Groups | None
) -> Search:
    gallery = normaliser(extract(feature_fn, train))

    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        rows = normaliser(extract(feature_fn, queries))
        return _cosine(rows, gallery, excluded(query_owner, owner))

    return search


def _cosine(
    rows: np.ndarray, gallery: np.ndarray, exclude: tuple[Groups, Groups] | None
) -> Nearest:
    """Largest ``⟨q, t⟩`` of unit rows, by distance: ``⟨q, t⟩ = 1 − ‖q − t‖² / 2``.

    A row of zeros (no contrast) is similar to nothing, 0; a column of its own keeps such a training
    picture at the distance √2 that says so.
    """
    blank = np.asarray(~gallery.any(axis=1))
    if blank.any():
        gallery = np.concatenate([gallery, blank[:, None].astype(np.float32)], axis=1)
        rows = np.concatenate([rows, np.zeros((len(rows), 1), np.float32)], axis=1)
    distance, index = knn(rows, gallery, 1, exclude_groups=exclude)
    similarity = 1.0 - 0.5 * distance[:, 0].astype(np.float64) ** 2
    similarity = np.where(rows.any(axis=1) | np.isinf(similarity), similarity, 0.0)
    return Nearest(similarity, index[:, 0])


def _shifted(max_shift: int, train: Images, owner: Groups | None) -> Search:
    """Every shift is an exact search of its own over what then overlaps, each part centred anew."""
    reach = range(-max_shift, max_shift + 1)
    shifts = [(down, right) for down in reach for right in reach]

    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        best = np.full(len(queries), -np.inf)
        index = np.full(len(queries), -1, np.int64)
        for down, right in shifts:
            rows, gallery = overlap(queries, down, right), overlap(train, -down, -right)
            found = _cosine(rows, gallery, excluded(query_owner, owner))
            index = np.where(found.similarity > best, found.index, index)
            best = np.maximum(best, found.similarity)
        return Nearest(best, index)

    return search


def overlap(images: Images, down: int, right: int) -> Float[np.ndarray, "n d"]:
    """Returns what is left after dropping rows and columns at one edge, centred and unit length.

    ``overlap(a, s, t)`` lies on ``overlap(b, −s, −t)`` when ``a`` is ``b`` moved by ``s`` pixels
    down and ``t`` to the right. Zeros at the end keep all shifts at one length.

    Raises:
        ValueError: If nothing is left.
    """
    h, w = images.shape[1:3]
    if abs(down) >= h or abs(right) >= w:
        raise ValueError(
            f"a shift of {(down, right)} pixels leaves nothing of a picture of {h}×{w}; "
            "use a smaller max_shift."
        )
    part = images[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)]
    rows = centred(part.reshape(len(images), -1))
    return np.pad(rows, ((0, 0), (0, int(np.prod(images.shape[1:])) - rows.shape[1])))

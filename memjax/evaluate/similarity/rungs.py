"""The rungs of the similarity ladder: pixels, shifts, structure, and the direction of features.

Structure is compared with all training images, or with likely ones where they are many. Images
too large to compare pixel by pixel are kept as bytes and made smaller first.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from memjax.evaluate.features.base import (
    FeatureFn,
    FindingFeatures,
    Images,
    NamedFeatures,
    Normalizer,
    PixelFeatures,
    centered,
    extract,
    unit_length,
)
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.similarity.copy_rules import (
    COPY_RATIO_ADAPTIVE,
    COPY_RATIO_THIRD,
    SimilarityResult,
    copy_report,
    pixel_rms,
)
from memjax.evaluate.similarity.knn import Groups, knn
from memjax.evaluate.similarity.measures import (
    NEIGHBOURHOOD,
    Nearest,
    Rung,
    Search,
    excluded,
    features_of,
    same_group,
)
from memjax.evaluate.similarity.resolution import Pictures, reduced
from memjax.evaluate.similarity.ssim import SCALE_WEIGHTS, scale_weights, structural_similarity

_EXHAUSTIVE_VALUES = 1 << 20  # of the training images; above it only candidates are looked at


def structural_rungs(side: int) -> list[Rung]:
    """Returns SSIM, and MS-SSIM where more than one scale fits; titles say what was made smaller.

    Args:
        side: The shorter edge of the images.
    """
    if side < 3:
        return []
    rungs = [Rung("ssim", "Structural similarity (SSIM)", "L1", partial(_structural, (1.0,)))]
    weights = scale_weights(side)
    if len(weights) > 1:
        whole = len(weights) == len(SCALE_WEIGHTS)
        scales = "" if whole else f", {len(weights)} of 5 scales fit"
        title = f"Multi-scale structural similarity (MS-SSIM{scales})"
        rungs.append(Rung("ms_ssim", title, "L1", partial(_structural, weights)))
    return rungs


def _structural(weights: tuple[float, ...], train: Images, owner: Groups | None) -> Search:
    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        exclude = excluded(query_owner, owner)
        if train.size <= _EXHAUSTIVE_VALUES or len(train) <= 2 * NEIGHBOURHOOD:
            found = structural_similarity(queries, train, weights=weights).astype(np.float64)
            if exclude is not None:
                found[same_group(*exclude)] = -np.inf
            candidates = np.broadcast_to(np.arange(len(train)), found.shape)
            return _best(found, candidates)
        return _among_candidates(weights, queries, train, exclude)

    return search


def _among_candidates(weights, queries, train, exclude) -> Nearest:
    """SSIM with the nearest by distance and by Pearson correlation only."""
    near = knn(queries, train, NEIGHBOURHOOD, exclude_groups=exclude)[1]
    flat = [centered(x.reshape(len(x), -1)) for x in (queries, train)]
    alike = knn(flat[0], flat[1], NEIGHBOURHOOD, exclude_groups=exclude)[1]
    candidates = np.concatenate([near, alike], axis=1)
    found = np.empty(candidates.shape)
    rows = max(_EXHAUSTIVE_VALUES // (candidates.shape[1] * train[0].size), 1)
    for i in range(0, len(queries), rows):
        own = train[np.maximum(candidates[i : i + rows], 0)]
        found[i : i + rows] = structural_similarity(queries[i : i + rows], own, weights=weights)
    note = f"among the {NEIGHBOURHOOD} nearest by distance and by Pearson correlation"
    return _best(np.where(candidates >= 0, found, -np.inf), candidates, note)


def _best(found: np.ndarray, candidates: np.ndarray, note: str = "") -> Nearest:
    at = found.argmax(axis=1)[:, None]
    similarity = np.take_along_axis(found, at, 1)[:, 0]
    index = np.take_along_axis(candidates, at, 1)[:, 0]
    return Nearest(similarity, np.where(np.isfinite(similarity), index, -1), note)


def at_side(rung: Rung, side: int) -> Rung:
    """Returns a rung that compares images at a short side of ``side`` pixels, and says so."""

    def build(train: Pictures, owner: Groups | None) -> Search:
        inner = rung.build(reduced(train, side), owner)

        def search(queries: Pictures, query_owner: Groups | None) -> Nearest:
            return inner(reduced(queries, side), query_owner)

        return search

    return dataclasses.replace(rung, title=f"{rung.title}, at {side} px", build=build)


def on_bytes(features: FeatureFn) -> FeatureFn:
    """Returns features of images that may be kept as bytes, a few of them at a time."""

    def rows(pictures: np.ndarray) -> Float[np.ndarray, "n d"]:
        return features_of(features, pictures)

    return NamedFeatures(features.name, rows)


def features_at_side(features: FeatureFn, side: int) -> FeatureFn:
    """Returns features of images shrunk to a short side of ``side`` pixels first."""

    def rows(pictures: np.ndarray) -> Float[np.ndarray, "n d"]:
        return np.asarray(features(reduced(pictures, side)))

    return NamedFeatures(f"{features.name}, at {side} px", rows)


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
            normalizer=centered,
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
    normalizer: Normalizer = unit_length,
    published: float | None = None,
    rule: str = "",
) -> Rung:
    """Returns the rung that compares images by the direction of their features.

    Args:
        feature_fn: Any feature extractor, the user's own weights for one.
        name: Key of its results; None takes ``feature_fn.name``.
        title: Heading; None takes ``feature_fn.name``.
        level: See :class:`Rung`.
        normalizer: :func:`~memjax.evaluate.features.base.unit_length` (cosine) or
            :func:`~memjax.evaluate.features.base.centered` (Pearson correlation).
        published: A published threshold of the similarity; None calibrates one.
        rule: That rule in a phrase.
    """
    label = feature_fn.name
    build = partial(_by_direction, feature_fn, normalizer)
    return Rung(name or label, title or label, level, build, published, False, rule)


def copy_rung(encoder: FeatureFn) -> Rung:
    """Returns the rung of a trained :class:`~memjax.evaluate.features.copy_encoder.CopyEncoder`."""
    title = "Contrastive copy encoder"
    return feature_rung(encoder, name="copy_encoder", title=title, level="L2", normalizer=centered)


def finding_rung(judge: Judge) -> Rung:
    """Returns the rung that compares what the project's own finding classifier sees."""
    title = "Finding classifier's features"
    features = FindingFeatures(judge)
    return feature_rung(
        features, name="finding_features", title=title, level="L2", normalizer=centered
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
    note = f"only {n} training images for the mean" if few else ""

    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        known = None if owner is None else query_owner
        report = copy_report(queries, train, patients=owner, query_patients=known, n=n)
        return Nearest(-ratio(report), report.index, note)

    return search


def _by_direction(
    feature_fn: FeatureFn, normalizer: Normalizer, train: Images, owner: Groups | None
) -> Search:
    gallery = normalizer(extract(feature_fn, train))

    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        rows = normalizer(extract(feature_fn, queries))
        return _cosine(rows, gallery, excluded(query_owner, owner))

    return search


def _cosine(
    rows: np.ndarray, gallery: np.ndarray, exclude: tuple[Groups, Groups] | None
) -> Nearest:
    """Largest ``⟨q, t⟩`` of unit rows, by distance: ``⟨q, t⟩ = 1 − ‖q − t‖² / 2``.

    A row of zeros (no contrast) is similar to nothing, 0; a column of its own keeps such a training
    image at the distance √2 that says so.
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
    """Every shift is an exact search of its own over what then overlaps, each part centered."""
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
    """Returns what is left after dropping rows and columns at one edge, centered and unit length.

    ``overlap(a, s, t)`` lies on ``overlap(b, −s, −t)`` when ``a`` is ``b`` moved by ``s`` pixels
    down and ``t`` to the right. Zeros at the end keep all shifts at one length.

    Raises:
        ValueError: If nothing is left.
    """
    h, w = images.shape[1:3]
    if abs(down) >= h or abs(right) >= w:
        raise ValueError(
            f"a shift of {(down, right)} pixels leaves nothing of an image of {h}×{w}; "
            "use a smaller max_shift."
        )
    part = images[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)]
    rows = centered(part.reshape(len(images), -1))
    return np.pad(rows, ((0, 0), (0, int(np.prod(images.shape[1:])) - rows.shape[1])))

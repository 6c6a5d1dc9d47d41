"""Climbs the similarity ladder: every rung on the same images, each with its own background.

A rung with a published rule uses it. Every other rung calls an image a copy when it is more
similar to its nearest training image than 95 % of held-out real images of its class are to
theirs.

References:
    Dar et al., arXiv 2402.01054, methods (the 95th percentile of validation images).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from memjax.evaluate.features.base import Images
from memjax.evaluate.similarity.knn import Groups
from memjax.evaluate.similarity.measures import Nearest, Rung, Search
from memjax.evaluate.similarity.rungs import copy_rung, feature_rung, finding_rung, pixel_rungs

__all__ = [
    "MIN_OF_CLASS",
    "PERCENTILE",
    "CalibratedRung",
    "Nearest",
    "Rung",
    "RungResult",
    "Thresholds",
    "apply_ladder",
    "calibrate_ladder",
    "copy_rung",
    "feature_rung",
    "finding_rung",
    "fit_thresholds",
    "measure_ladder",
    "pixel_rungs",
]

PERCENTILE = 95.0
MIN_OF_CLASS = 20


class Thresholds(NamedTuple):
    """A percentile of the background, for all held-out images and for each class.

    Attributes:
        pooled: Of all held-out images.
        of_class: Of each class with at least 20 held-out images.
        num_held_out: How many they are fitted on.
    """

    pooled: float
    of_class: dict[Any, float]
    num_held_out: int

    def of(self, strata: ArrayLike | None, count: int) -> Float[np.ndarray, " n"]:
        """Returns each row's threshold: its class's own, else the pooled one."""
        if strata is None:
            return np.full(count, self.pooled)
        named = np.asarray(strata).tolist()
        return np.array([self.of_class.get(name, self.pooled) for name in named])

    def phrase(self, per_class: bool) -> str:
        """Returns the rule in words."""
        which = "held-out images"
        if per_class and self.of_class:
            which += f" of its class (all, for classes with fewer than {MIN_OF_CLASS})"
        few = "" if self.num_held_out >= MIN_OF_CLASS else ", too few to trust"
        return (
            f"more similar than {PERCENTILE:g} % of {which} are to theirs "
            f"({self.num_held_out} held out{few})"
        )


def fit_thresholds(
    background: Float[np.ndarray, " m"],
    strata: ArrayLike | None = None,
    *,
    percentile: float = PERCENTILE,
) -> Thresholds:
    """Fits the pooled threshold and one for each class with at least 20 held-out images.

    Args:
        background: Similarity of held-out images to their nearest training image.
        strata: Class of each.
        percentile: In percent.

    Raises:
        ValueError: If no held-out image has an eligible training image.
    """
    usable = np.isfinite(background)
    if not usable.any():
        raise ValueError(
            f"none of {len(background)} held-out images has a training image of another "
            "patient, expected at least one; hold out other patients."
        )
    of_class = {}
    if strata is not None:
        names = np.asarray(strata)
        for name in np.unique(names[usable]).tolist():
            own = background[usable & (names == name)]
            if len(own) >= MIN_OF_CLASS:
                of_class[name] = float(np.percentile(own, percentile))
    pooled = float(np.percentile(background[usable], percentile))
    return Thresholds(pooled, of_class, int(usable.sum()))


class RungResult(NamedTuple):
    """What one rung says about each query.

    Attributes:
        name: The rung.
        title: Its heading.
        similarity: To the nearest training image; higher = more alike. −inf where none is
            eligible.
        index: That image's row in ``train``; −1 where none is eligible.
        is_copy: Copy by the rung's rule.
        threshold: Similarity above which an image is a copy; the median of the queries' own where
            it is calibrated per class.
        background: Similarity of held-out real images to training, the same patient left out.
        background_is_copy: The same rule on them: the false alarms.
        rule: How ``is_copy`` was decided, in a phrase.
    """

    name: str
    title: str
    similarity: Float[np.ndarray, " q"]
    index: Int[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    is_copy: Bool[np.ndarray, " q"]
    threshold: float
    background: Float[np.ndarray, " m"]
    background_is_copy: Bool[np.ndarray, " m"]
    rule: str

    def take(self, rows: Int[np.ndarray, " k"]) -> "RungResult":
        """Returns what it says about some queries."""
        return self._replace(
            similarity=self.similarity[rows], index=self.index[rows], is_copy=self.is_copy[rows]
        )


class CalibratedRung(NamedTuple):
    """A rung over its training images, with the background of held-out ones."""

    rung: Rung
    search: Search
    background: Float[np.ndarray, " m"]
    thresholds: Thresholds
    background_is_copy: Bool[np.ndarray, " m"]


def calibrate_ladder(
    rungs: Sequence[Rung],
    train: Images,
    *,
    held_out: Images,
    train_patients: Groups | None = None,
    held_patients: Groups | None = None,
    held_strata: ArrayLike | None = None,
) -> dict[str, CalibratedRung]:
    """Builds every rung over the training images and measures its background, once.

    Use it with :func:`apply_ladder` when several sets of images (before and after a mitigation)
    are compared with the same training images. Arguments as for :func:`measure_ladder`.
    """
    _check_names(rungs)
    _check_images(train, held_out, "held-out images")
    _check_lengths(train, train_patients, "train_patients")
    _check_lengths(held_out, held_patients, "held_patients")
    _check_lengths(held_out, held_strata, "held_strata")
    _check_patients(train_patients, held_patients)
    return {
        rung.name: _calibrated(rung, train, train_patients, held_out, held_patients, held_strata)
        for rung in rungs
    }


def _calibrated(rung, train, train_patients, held_out, held_patients, strata) -> CalibratedRung:
    search = rung.build(train, train_patients)
    background = search(held_out, held_patients).similarity
    thresholds = fit_thresholds(background, strata)
    is_copy = _is_copy(rung, background, thresholds.of(strata, len(background)))
    return CalibratedRung(rung, search, background, thresholds, is_copy)


def apply_ladder(
    ladder: Mapping[str, CalibratedRung], queries: Images, *, strata: ArrayLike | None = None
) -> dict[str, RungResult]:
    """Returns what every calibrated rung says about ``queries``.

    Args:
        ladder: Of :func:`calibrate_ladder`.
        queries: ``[q, h, w, c]`` generated images in [-1, 1].
        strata: Class of each; used where the ladder was calibrated with ``held_strata``.
    """
    _check_lengths(queries, strata, "strata")
    return {name: _applied(rung, queries, strata) for name, rung in ladder.items()}


def _applied(calibrated: CalibratedRung, queries: Images, strata) -> RungResult:
    rung, thresholds = calibrated.rung, calibrated.thresholds
    nearest = calibrated.search(queries, None)
    own = thresholds.of(strata, len(queries))
    fixed = rung.published is not None
    rule = rung.rule if fixed else thresholds.phrase(strata is not None)
    return RungResult(
        name=rung.name,
        title=rung.title,
        similarity=nearest.similarity,
        index=nearest.index,
        is_copy=_is_copy(rung, nearest.similarity, own),
        threshold=float(rung.published if rung.published is not None else np.median(own)),
        background=calibrated.background,
        background_is_copy=calibrated.background_is_copy,
        rule="; ".join(part for part in (rule, nearest.note) if part),
    )


def _is_copy(rung: Rung, similarity: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    if rung.published is None:
        return similarity > thresholds
    return similarity >= rung.published if rung.inclusive else similarity > rung.published


def measure_ladder(
    rungs: Sequence[Rung],
    queries: Images,
    train: Images,
    *,
    held_out: Images,
    train_patients: Groups | None = None,
    held_patients: Groups | None = None,
    strata: ArrayLike | None = None,
    held_strata: ArrayLike | None = None,
) -> dict[str, RungResult]:
    """Measures every rung: generated images, their nearest training images and a background.

    Args:
        rungs: Of :func:`pixel_rungs`, :func:`feature_rung` and their like; names differ.
        queries: ``[q, h, w, c]`` generated images in [-1, 1].
        train: ``[n, h, w, c]`` training images in [-1, 1] *without duplicates*.
        held_out: ``[m, h, w, c]`` real images that were not trained on.
        train_patients: Patient of each training image.
        held_patients: Patient of each held-out image; a training image of the same patient is
            never its nearest.
        strata: Class of each query, for thresholds per class.
        held_strata: Class of each held-out image; needed with ``strata``.

    Raises:
        ValueError: If shapes, lengths or names do not fit.
    """
    if strata is not None and held_strata is None:
        raise ValueError(
            "strata were given without held_strata; pass the class of each held-out image too."
        )
    _check_images(train, queries, "queries")
    _check_lengths(queries, strata, "strata")
    ladder = calibrate_ladder(
        rungs,
        train,
        held_out=held_out,
        train_patients=train_patients,
        held_patients=held_patients,
        held_strata=held_strata,
    )
    return apply_ladder(ladder, queries, strata=strata)


def _check_names(rungs: Sequence[Rung]) -> None:
    names = [rung.name for rung in rungs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two rungs are called {twice[0]!r}; give each a name of its own.")


def _check_images(train: Images, images: Images, name: str) -> None:
    if train.ndim != 4 or images.ndim != 4 or images.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"{name} have shape {images.shape} and training images {train.shape}, expected "
            "[n, height, width, channels] of one size; resize them first."
        )
    if len(train) < 2 or not len(images):
        raise ValueError(
            f"{len(images)} {name} and {len(train)} training images were given, expected at "
            "least 1 and 2; add images."
        )


def _check_lengths(images: Images, values: Any, name: str) -> None:
    if values is not None and len(values) != len(images):
        raise ValueError(
            f"{name} has {len(values)} entries for {len(images)} images; give one each."
        )


def _check_patients(train_patients: object, held_patients: object) -> None:
    if held_patients is not None and train_patients is None:
        raise ValueError(
            "held_patients was given without train_patients; pass the patient of each training "
            "image too."
        )


COPY_ENCODER, FINDING_FEATURES = "copy_encoder", "finding_features"


def check_rungs(names: Sequence[str]) -> None:
    """Refuses unknown names before anything is trained.

    Raises:
        ValueError: Naming them and the known ones.
    """
    known = [r.name for r in pixel_rungs((256, 256, 1))]  # small images have fewer
    known += [COPY_ENCODER, FINDING_FEATURES]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"audit.rungs names {unknown[0]!r}, expected names out of {', '.join(known)}."
        )

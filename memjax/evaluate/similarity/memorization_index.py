"""Memorization Index: how much nearer a generation is to training than training patients are?

Features of several layers are whitened on the training images; the nearest training image counts in
each layer; their geometric mean is standardized by what training images of *other patients* reach.

References:
    Memorization Index, arXiv 2602.13066. Unlike its published code the null is taken by folds of
    patients: a fold is whitened by the other nine and compared with them, so that it is nearly as
    large as what a generation is compared with and has no two images of one patient (there, random
    halves: the nearest of half as many, and whitened by themselves, which pushes training images
    apart). Covariances are shrunk (there, eigenvalues are cut at 1e-8, which multiplies directions
    without variance by 10⁴).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from memjax.evaluate.features.base import unit_length
from memjax.evaluate.similarity.knn import Groups, knn
from memjax.evaluate.similarity.resolution import Pictures, reduced

SHRINKAGE = 0.1
_LEAST_COSINE = 1e-6  # a geometric mean has no negative factors
FOLDS = 10

Layers = Sequence[Float[np.ndarray, "n d"]]


class IndexResult(NamedTuple):
    """What the index says of each image.

    Attributes:
        index: ``(s − μ) / σ``: standard deviations above what other patients' images reach.
        novelty: ``−tanh(index)``: −1 for a copy, towards 1 for what is new.
        similarity: ``s``, the geometric mean of the layers' nearest cosines.
        nearest: Training row that is nearest in the last layer.
    """

    index: Float[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    novelty: Float[np.ndarray, " q"]
    similarity: Float[np.ndarray, " q"]
    nearest: Int[np.ndarray, " q"]


@dataclasses.dataclass(frozen=True, eq=False)
class MemorizationIndex:
    """The index of one training set; made by :func:`fit_index`.

    Attributes:
        means: Of each layer.
        whitenings: ``(Σ + λI)^{-1/2}`` of each layer.
        training: Whitened unit rows of each layer.
        mean: μ of the null.
        std: σ of the null.
    """

    means: Sequence[Float[np.ndarray, " d"]]
    whitenings: Sequence[Float[np.ndarray, "d d"]]
    training: Layers
    mean: float
    std: float

    def __call__(self, layers: Layers) -> IndexResult:
        """Returns the index of images from their features, layer by layer as in training.

        Raises:
            ValueError: If there are other layers than in training.
        """
        if [np.shape(a)[1:] for a in layers] != [m.shape for m in self.means]:
            raise ValueError(
                f"features have widths {[np.shape(a)[1:] for a in layers]}, expected "
                f"{[m.shape for m in self.means]}: take the layers that the index was fitted on."
            )
        rows = [
            _whitened(a, m, w) for a, m, w in zip(layers, self.means, self.whitenings, strict=True)
        ]
        similarity, nearest = _similarity(rows, self.training)
        index = (similarity - self.mean) / self.std
        return IndexResult(index, -np.tanh(index), similarity, nearest)


def fit_index(
    layers: Layers, patients: Groups, *, shrinkage: float = SHRINKAGE
) -> MemorizationIndex:
    """Returns the index of a training set.

    Args:
        layers: Features of the training images *without exact duplicates*, layer by layer.
        patients: Of each image; those of one patient are in one fold, and never compared.
        shrinkage: λ as a share of the mean variance of a layer's features.

    Raises:
        ValueError: If there is no layer, they differ in rows, there are fewer patients than
            folds, or all training images are equally near.
    """
    rows = [np.asarray(layer, np.float64) for layer in layers]
    if not rows or any(a.ndim != 2 or len(a) != len(patients) for a in rows):
        raise ValueError(
            f"features have shapes {[a.shape for a in rows]} for {len(patients)} patients, "
            "expected at least one layer [images, width], one patient an image."
        )
    if not 0 < shrinkage < np.inf:
        raise ValueError(f"shrinkage is {shrinkage}, expected a number above 0.")
    owner = np.unique(np.asarray(patients).astype(str), return_inverse=True)[1].ravel()
    if owner.max(initial=-1) + 1 < FOLDS:
        raise ValueError(
            f"{owner.max(initial=-1) + 1} patients are no background, expected at least {FOLDS}: "
            "give more training pictures."
        )
    null = np.concatenate([_null(rows, owner % FOLDS == k, shrinkage) for k in range(FOLDS)])
    if not null.std() > 0:
        raise ValueError("all training pictures are equally near: there is nothing to scale by.")
    whiten = [_fitted(a, shrinkage) for a in rows]
    training = [_whitened(a, *w) for a, w in zip(rows, whiten, strict=True)]
    means, whitenings = zip(*whiten, strict=True)
    return MemorizationIndex(means, whitenings, training, float(null.mean()), float(null.std()))


def _null(layers: Layers, fold: np.ndarray, shrinkage: float) -> np.ndarray:
    """What one fold's images reach among the others, which alone decide the whitening."""
    whiten = [_fitted(a[~fold], shrinkage) for a in layers]
    own, others = (
        [_whitened(a[rows], *w) for a, w in zip(layers, whiten, strict=True)]
        for rows in (fold, ~fold)
    )
    return _similarity(own, others)[0]


def _fitted(rows: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and ``(Σ + λI)^{-1/2}`` of a layer."""
    mean = rows.mean(axis=0)
    covariance = (rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    floor = max(shrinkage * float(values.mean()), np.finfo(np.float64).tiny)
    return mean, np.asarray((vectors / np.sqrt(np.maximum(values, 0) + floor)) @ vectors.T)


def _whitened(rows: np.ndarray, mean: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    return unit_length((np.asarray(rows, np.float64) - mean) @ whitening)


def _similarity(queries: Layers, training: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Geometric mean over layers of the nearest cosine, and the last layer's nearest row."""
    total, index = np.zeros(len(queries[0])), np.zeros((0, 1), np.int64)
    for query, rows in zip(queries, training, strict=True):
        distance, index = knn(query, rows, 1)
        cosine = 1 - distance[:, 0].astype(np.float64) ** 2 / 2
        total += np.log(np.maximum(cosine, _LEAST_COSINE))
    return np.exp(total / len(queries)), index[:, 0]


def pixel_layers(images: Pictures, sides: Sequence[int] = (4, 8, 16)) -> list[np.ndarray]:
    """Returns thumbnails of several sizes as layers, for who has no encoder at hand."""
    return [reduced(images, side).reshape(len(images), -1) for side in sides]

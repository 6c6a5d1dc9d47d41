"""Features of images, and the two ways of comparing them by their direction.

Anything that turns images into rows of numbers is a :class:`FeatureFn`: pixels, a network trained
here, or published weights that the user has.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.evaluate.features.finding_classifier import Judge
from memjax.models.classifier import FindingClassifier

Images = Float[np.ndarray, "n h w c"]
Normalizer = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]
_CHUNK = 256


class FeatureFn(Protocol):
    """Turns float32 images in [-1, 1] into one row of features each, on the host.

    Attributes:
        name: Stands in every output; says the weights and the preprocessing.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]: ...


@dataclasses.dataclass(frozen=True)
class PixelFeatures:
    """The pixels themselves, row after row."""

    name: str = "pixels"

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        return np.asarray(images, np.float32).reshape(len(images), -1)


@dataclasses.dataclass(frozen=True)
class NamedFeatures:
    """Gives a plain function the name that outputs show."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        return self.function(images)


@dataclasses.dataclass(frozen=True, eq=False)
class FindingFeatures:
    """The features in which a finding classifier's logits are linear."""

    judge: Judge
    name: str = "finding classifier (trained on this data set)"

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        return in_chunks(partial(_finding_features, self.judge.module, self.judge.params), images)


@partial(jax.jit, static_argnums=0)
def _finding_features(module: FindingClassifier, params: Params, images: Array) -> Array:
    features: Any = module.apply({"params": params}, images, method="features")
    return features


def in_chunks(
    function: Callable[[np.ndarray], Any], images: Float[np.ndarray, "n h w c"], size: int = _CHUNK
) -> Float[np.ndarray, "n d"]:
    """Calls ``function`` on equally long pieces (the last one padded), so that it traces once."""
    out = []
    for start in range(0, len(images), size):
        part = np.asarray(images[start : start + size], np.float32)
        padding = np.zeros((size - len(part), *part.shape[1:]), np.float32)
        out.append(np.asarray(function(np.concatenate([part, padding])))[: len(part)])
    return np.concatenate(out)


def extract(feature_fn: FeatureFn, images: Images) -> Float[np.ndarray, "n d"]:
    """Returns the features of ``images``, checked.

    Raises:
        ValueError: If the function does not return one row of finite numbers an image.
    """
    rows = np.asarray(feature_fn(images))
    if rows.ndim != 2 or len(rows) != len(images):
        raise ValueError(
            f"{feature_fn.name} returned an array of shape {rows.shape} for {len(images)} "
            "images, expected one row of features each; pool over pixels first."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"{feature_fn.name} returned a value that is not finite; check its weights and "
            "whether it expects images in [-1, 1]."
        )
    return rows


def unit_length(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """``f / ‖f‖₂``: products of such rows are cosines. A row of zeros stays one."""
    rows = np.asarray(features, np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return (rows / np.where(norm > 0, norm, 1.0)).astype(np.float32)


def centered(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """``(f − f̄) / ‖f − f̄‖₂`` with ``f̄`` the row's own mean: products are Pearson correlations.

    .. note:: A row without contrast (its spread below a millionth of its size) has no correlation
        with anything and becomes a row of zeros.
    """
    rows = np.asarray(features, np.float64)
    gap = rows - rows.mean(axis=1, keepdims=True)
    flat = np.abs(gap).max(axis=1) <= 1e-6 * np.abs(rows).max(axis=1)
    return unit_length(np.where(flat[:, None], 0.0, gap))

"""The similarity ladder on pictures too large to compare pixel by pixel, and kept as bytes."""

import dataclasses

import numpy as np
from jaxtyping import Float

from memjax.evaluate.features.base import FeatureFn, NamedFeatures
from memjax.evaluate.rung import Nearest, Rung, Search
from memjax.evaluate.similarity.knn import Groups
from memjax.evaluate.similarity.measures import features_of
from memjax.evaluate.similarity.resolution import Pictures, reduced


def at_side(rung: Rung, side: int) -> Rung:
    """Returns a rung that compares pictures at a short side of ``side`` pixels, and says so."""

    def build(train: Pictures, owner: Groups | None) -> Search:
        inner = rung.build(reduced(train, side), owner)

        def search(queries: Pictures, query_owner: Groups | None) -> Nearest:
            return inner(reduced(queries, side), query_owner)

        return search

    return dataclasses.replace(rung, title=f"{rung.title}, at {side} px", build=build)


def on_bytes(features: FeatureFn) -> FeatureFn:
    """Returns features of pictures that may be kept as bytes, a few of them at a time."""

    def rows(pictures: np.ndarray) -> Float[np.ndarray, "n d"]:
        return features_of(features, pictures)

    return NamedFeatures(features.name, rows)


def features_at_side(features: FeatureFn, side: int) -> FeatureFn:
    """Returns features of pictures shrunk to a short side of ``side`` pixels first."""

    def rows(pictures: np.ndarray) -> Float[np.ndarray, "n d"]:
        return np.asarray(features(reduced(pictures, side)))

    return NamedFeatures(f"{features.name}, at {side} px", rows)

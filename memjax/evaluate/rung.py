"""What a rung of the similarity ladder is: a search for the training picture most alike.

A rung is built once over the training pictures and then asked about generated and held-out ones.
Higher is more alike on every rung: distances and ratios are negated.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.evaluate.features.base import Images
from memjax.evaluate.similarity.knn import NO_GROUP, Groups

NEIGHBOURHOOD = 50


class Nearest(NamedTuple):
    """The most similar training picture of each query.

    Attributes:
        similarity: Higher = more alike; −inf where no training picture is eligible.
        index: Its row; −1 where none is eligible.
        note: What the reader must know about how it was searched; mostly empty.
    """

    similarity: Float[np.ndarray, " q"]
    index: Int[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    note: str = ""


Search = Callable[[Images, Groups | None], Nearest]


@dataclasses.dataclass(frozen=True)
class Rung:
    """One way of comparing.

    Attributes:
        name: Key of its results.
        title: Heading in tables and figures.
        level: ``L0`` (pixels) to ``L6`` (identity of the patient): how much it understands.
        build: ``(train, patients) → search``, and ``search(queries, query_patients) → Nearest``; a
            training picture of the query's patient is never returned.
        published: Similarity from which a picture is a copy by a published rule; None: the
            threshold is calibrated on held-out pictures.
        inclusive: Whether a similarity equal to ``published`` is a copy.
        rule: The published rule in a phrase.
    """

    name: str
    title: str
    level: str
    build: Callable[[Images, Groups | None], Search]
    published: float | None = None
    inclusive: bool = False
    rule: str = ""


def same_group(a: Groups, b: Groups) -> Bool[np.ndarray, "a b"]:
    """Returns ``[len(a), len(b)]``: whether two rows belong to the same (named) group."""
    left, right = np.asarray(a, object), np.asarray(b, object)
    named = np.asarray([group not in NO_GROUP for group in left.tolist()], bool)
    return np.equal(left[:, None], right[None]).astype(bool) & named[:, None]


def excluded(query_owner: Groups | None, owner: Groups | None) -> tuple[Groups, Groups] | None:
    """Returns the pair of groups that ``knn`` leaves out; None where one side is not known."""
    return None if query_owner is None or owner is None else (query_owner, owner)

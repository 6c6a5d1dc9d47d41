"""How much a generated image is like training images: of its own prompt, or the nearest of all.

A rung of the similarity ladder is built once over the training images and then asked about
generated and held-out ones. Higher is more alike on every rung: distances and ratios are negated.

References:
    Somepalli et al., CVPR 2023, arXiv 2212.03860 (SSCD as the measure of copying); Wen et al.,
    ICLR 2024, section 4.2: largest over a prompt's training images, then the mean over its
    generations.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.registry import Registry
from memjax.evaluate.features.base import FeatureFn, Images, centered, extract, unit_length
from memjax.evaluate.similarity.knn import NO_GROUP, Groups
from memjax.evaluate.similarity.resolution import Pictures, as_unit, reduced

_CHUNK = 32
_TILES = 4  # a side
NEIGHBOURHOOD = 50


class Likeness(Protocol):
    """Compares the generations of a prompt with its training images; higher = more alike.

    Images become rows first, so that those of training images are made once for all arms.
    """

    @property
    def key(self) -> str:
        """Short name, for columns of tables."""
        ...

    @property
    def name(self) -> str:
        """Weights and preprocessing, for every output."""
        ...

    def rows(self, pictures: Pictures) -> np.ndarray:
        """Returns what is compared, one row an image."""
        ...

    def compare(self, generated: np.ndarray, references: np.ndarray) -> Float[np.ndarray, " g"]:
        """Returns the largest likeness of each generated row to a reference's."""
        ...


class LikenessSummary(NamedTuple):
    """Likeness of a prompt's generations: mean, least and largest over them."""

    mean: float
    min: float
    max: float


def summary_of(values: Float[np.ndarray, " g"]) -> LikenessSummary:
    """Returns mean, least and largest over a prompt's generations."""
    v = np.asarray(values, np.float64)
    return LikenessSummary(float(v.mean()), float(v.min()), float(v.max()))


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureLikeness:
    """Largest cosine of an image's features with those of its references.

    Attributes:
        key: Short name, such as ``sscd``.
        features: Such as SSCD with one of its preprocessings.
    """

    key: str
    features: FeatureFn

    @property
    def name(self) -> str:
        """Weights and preprocessing."""
        return self.features.name

    def rows(self, pictures: Pictures) -> Float[np.ndarray, "n d"]:
        """Returns unit rows of features."""
        return unit_length(features_of(self.features, pictures))

    def compare(
        self, generated: Float[np.ndarray, "g d"], references: Float[np.ndarray, "r d"]
    ) -> Float[np.ndarray, " g"]:
        """Returns ``max_r cos(f(x), f(r))``."""
        return (generated @ references.T).max(axis=1)


def features_of(features: FeatureFn, pictures: Pictures) -> Float[np.ndarray, "n d"]:
    """Returns the features of images that may be kept as bytes, a few at a time."""
    parts = [
        extract(features, as_unit(pictures[start : start + _CHUNK]))
        for start in range(0, len(pictures), _CHUNK)
    ]
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class PixelCorrelation:
    """Largest Pearson correlation of an image's pixels with those of its references.

    Needs no weights. Images are compared at ``side`` pixels; those of another shape are refused.
    """

    cost: ClassVar[str] = "no network"
    key: ClassVar[str] = "pixel_correlation"

    side: int = 64

    @property
    def name(self) -> str:
        """The measure and its resolution."""
        return f"Pearson correlation of pixels (short side {self.side}, antialiased bilinear)"

    def rows(self, pictures: Pictures) -> Float[np.ndarray, "n d"]:
        """Returns centered unit rows of pixels."""
        return centered(reduced(pictures, self.side).reshape(len(pictures), -1))

    def compare(
        self, generated: Float[np.ndarray, "g d"], references: Float[np.ndarray, "r d"]
    ) -> Float[np.ndarray, " g"]:
        """Returns ``max_r ρ(x, r)``, within [-1, 1]."""
        check_shapes(generated, references)
        return (generated @ references.T).max(axis=1)


@dataclasses.dataclass(frozen=True)
class TiledDistance:
    """Negated tiled distance: the largest RMS difference of 16 tiles, in [0, 1] units.

    References:
        Carlini et al. 2023, arXiv 2301.13188, section 4.2: the largest over non-overlapping tiles,
        so that one common background does not make two images alike.
    """

    cost: ClassVar[str] = "no network"
    key: ClassVar[str] = "tiled_distance"
    name: ClassVar[str] = "largest RMS difference of 4×4 tiles (negated, images in [0, 1])"

    def rows(self, pictures: Pictures) -> Pictures:
        """Returns the images themselves."""
        return pictures

    def compare(self, generated: Pictures, references: Pictures) -> Float[np.ndarray, " g"]:
        """Returns ``−min_r max_tile √mean (x − r)²``."""
        check_shapes(generated, references)
        rows = []
        for picture in generated:
            gap = (as_unit(picture[None]) - as_unit(references)) / 2
            rows.append(-np.sqrt(_tile_means(gap**2)).max(axis=1).min())
        return np.asarray(rows, np.float64)


def tiles_of(height: int, width: int, side: int = _TILES) -> Iterator[tuple[slice, slice]]:
    """Yields the ``side²`` tiles of an image; rows and columns that do not fill one go with others.

    Raises:
        ValueError: If an image has fewer pixels a side than tiles.
    """
    if min(height, width) < side:
        raise ValueError(
            f"pictures of {height}×{width} pixels have no {side}×{side} tiles: give larger ones."
        )
    rows, columns = (np.linspace(0, size, side + 1).astype(int) for size in (height, width))
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            yield slice(top, bottom), slice(left, right)


def _tile_means(values: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n t"]:
    """Mean over each of 16 tiles."""
    tiles = [values[:, y, x].mean(axis=(1, 2, 3)) for y, x in tiles_of(*values.shape[1:3])]
    return np.stack(tiles, axis=1)


def check_shapes(generated: Pictures, references: Pictures) -> None:
    """Refuses images that cannot be laid on one another.

    Raises:
        ValueError: Naming both shapes.
    """
    if generated.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"generated images have shape {generated.shape[1:]} and training images "
            f"{references.shape[1:]}, expected one shape: resize the training images."
        )


MEASURES: Registry[Likeness] = Registry(
    "measure",
    {
        "pixel_correlation": "memjax.evaluate.similarity.measures:PixelCorrelation",
        "tiled_distance": "memjax.evaluate.similarity.measures:TiledDistance",
    },
)


def weightless() -> list[Likeness]:
    """Returns the measures that need no network."""
    return [MEASURES.parse(name) for name in MEASURES]


def rows_of(measures: Sequence[Likeness], pictures: Pictures) -> dict[str, np.ndarray]:
    """Returns what every measure compares of some images."""
    return {measure.key: measure.rows(pictures) for measure in measures}


def likeness_of(
    measure: Likeness, generated: Pictures, references: Pictures
) -> Float[np.ndarray, " g"]:
    """Returns the likeness of one prompt's generations to its training images."""
    return measure.compare(measure.rows(generated), measure.rows(references))


class Nearest(NamedTuple):
    """The most similar training image of each query.

    Attributes:
        similarity: Higher = more alike; −inf where no training image is eligible.
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
            training image of the query's patient is never returned.
        published: Similarity from which an image is a copy by a published rule; None: the
            threshold is calibrated on held-out images.
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

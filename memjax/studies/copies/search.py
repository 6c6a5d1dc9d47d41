"""The training image that each image is nearest to: thumbnails rank, small shifts are undone.

Thumbnails of 16×16 pixels, centered and of unit norm (so that brightness and contrast do not
count), give each image its 50 nearest training images. It is then compared with those alone, over
shifts of up to 2 of 64 pixels each way: ``d = √(2 (1 − max_shift ρ))`` of the inner 14×14 cells.
All of it is done for the image and for its mirror image; the one with the smaller calibrated
distance counts.

.. note:: What is turned, cropped or redrawn is not found by pixels: give a network made for that.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, UInt8

from memjax.evaluate.features.base import centered
from memjax.evaluate.similarity.copy_rules import SimilarityResult, neighbor_report
from memjax.evaluate.similarity.knn import Groups, knn, unique_rows
from memjax.evaluate.similarity.measures import NEIGHBOURHOOD
from memjax.studies.copies.reading import EDGE, SIDE

SHIFT = 2  # pixels of 64, each way, down and across
_INNER = slice(1, EDGE - 1)  # cells that a shift of 2 pixels leaves whole
_CHUNK = 256


class Gallery(NamedTuple):
    """Training images to search in, one for each content.

    Attributes:
        rows: ``[u]``, each entry's row among the training images that were read.
        unit: ``[u, d]``, rows of unit norm that rank.
        thumbnails: ``[u, 256]``, thumbnails that are laid on each other; None for networks.
        owner: ``[u]``, patient of each; None where none is known.
    """

    rows: Int[np.ndarray, " u"]
    unit: Float16[np.ndarray, "u d"]
    thumbnails: Float16[np.ndarray, "u 256"] | None
    owner: np.ndarray | None


class Match(NamedTuple):
    """The nearest training image of each query.

    Attributes:
        index: Its row among the training images; -1 where none is eligible.
        distance: From 0 (the same) to 2.
        calibrated: ``d₁ / (½ mean of the 50 nearest)``.
        third: ``d₁ / d₂``.
        mirrored: Whether the query's mirror image is the one that matches.
    """

    index: Int[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    distance: Float[np.ndarray, " q"]
    calibrated: Float[np.ndarray, " q"]
    third: Float[np.ndarray, " q"]
    mirrored: Bool[np.ndarray, " q"]


def gallery_of(
    unit: Float16[np.ndarray, "n d"],
    content: np.ndarray,
    owner: np.ndarray | None,
    thumbnails: Float16[np.ndarray, "n 256"] | None = None,
) -> Gallery:
    """Returns the training images without exact duplicates."""
    rows = unique_rows(content)
    kept = slice(None) if len(rows) == len(unit) else rows  # a million rows are not copied in vain
    return Gallery(
        rows,
        unit[kept],
        None if thumbnails is None else thumbnails[kept],
        None if owner is None else owner[rows],
    )


def unit_thumbnails(thumbnails: Float16[np.ndarray, "n 256"]) -> Float16[np.ndarray, "n 256"]:
    """Returns thumbnails centered and of unit norm, a few at a time."""
    out = np.empty(thumbnails.shape, np.float16)
    for start in range(0, len(out), 1 << 14):
        out[start : start + (1 << 14)] = centered(thumbnails[start : start + (1 << 14)])
    return out


def nearest_by_pixels(
    gallery: Gallery,
    thumbnails: Float16[np.ndarray, "q 256"],
    images: UInt8[np.ndarray, "q 64 64"],
    exclude: tuple[Groups, Groups] | None = None,
) -> Match:
    """Returns each image's nearest training image, mirrored or not.

    Args:
        gallery: With thumbnails.
        thumbnails: Of the queries.
        images: The queries at 64 pixels.
        exclude: Groups of the queries and of the gallery's entries; equal ones are never matched.
    """
    flipped = thumbnails.reshape(-1, EDGE, EDGE)[:, :, ::-1].reshape(thumbnails.shape)
    plain = _match(gallery, thumbnails, images, exclude)
    mirror = _match(gallery, flipped, images[:, :, ::-1], exclude)
    use = mirror.ratio_adaptive < plain.ratio_adaptive
    pick = {
        name: np.where(use, getattr(mirror, name), getattr(plain, name))
        for name in ("index", "distance", "ratio_adaptive", "ratio_third")
    }
    return Match(pick["index"], pick["distance"], pick["ratio_adaptive"], pick["ratio_third"], use)


def nearest_by_features(
    gallery: Gallery,
    rows: Float16[np.ndarray, "q d"],
    exclude: tuple[Groups, Groups] | None = None,
) -> Match:
    """Returns each image's nearest training image by a network's features, as they are."""
    queries = rows.astype(np.float32)
    distance, index = knn(queries, gallery.unit, _neighbors(gallery), exclude_groups=exclude)
    found = neighbor_report(distance, index, gallery.rows, owner=gallery.owner)
    still = np.zeros(len(rows), bool)
    return Match(found.index, found.distance, found.ratio_adaptive, found.ratio_third, still)


def _neighbors(gallery: Gallery) -> int:
    return min(NEIGHBOURHOOD, len(gallery.rows))


def _match(gallery: Gallery, thumbnails, images, exclude) -> SimilarityResult:
    queries = centered(thumbnails)
    _, index = knn(queries, gallery.unit, _neighbors(gallery), exclude_groups=exclude)
    assert gallery.thumbnails is not None
    distance = np.full(index.shape, np.inf, np.float32)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = gallery.thumbnails[np.maximum(index[part], 0)]
        distance[part] = np.where(index[part] >= 0, shifted_distance(images[part], near), np.inf)
    order = np.lexsort((index, distance), axis=1)
    distance, index = (np.take_along_axis(x, order, 1) for x in (distance, index))
    return neighbor_report(distance, index, gallery.rows, owner=gallery.owner)


def shifted_distance(
    images: UInt8[np.ndarray, "q 64 64"], thumbnails: Float16[np.ndarray, "q k 256"]
) -> Float[np.ndarray, "q k"]:
    """Returns ``√(2 (1 − max_shift ρ))`` of images and thumbnails, over shifts of the image.

    An image without contrast is like nothing: ``ρ = 0``.
    """
    q, k = thumbnails.shape[:2]
    cells = thumbnails.reshape(q * k, EDGE, EDGE)[:, _INNER, _INNER].reshape(q * k, -1)
    near = centered(cells).reshape(q, k, -1)
    windows = _windows(images)
    alike = np.matmul(windows, near.transpose(0, 2, 1)).max(axis=1)
    return np.sqrt(np.maximum(2.0 - 2.0 * alike, 0.0)).astype(np.float32)


def _windows(images: UInt8[np.ndarray, "q 64 64"]) -> Float[np.ndarray, "q shifts 196"]:
    """The inner cells of every image at every shift, centered and of unit norm."""
    cell, steps = SIDE // EDGE, range(-SHIFT, SHIFT + 1)
    floats = images.astype(np.float32) / 127.5 - 1.0
    inner = EDGE - 2
    parts = []
    for down in steps:
        for right in steps:
            cut = floats[:, cell + down : SIDE - cell + down, cell + right : SIDE - cell + right]
            means = cut.reshape(len(images), inner, cell, inner, cell).mean(axis=(2, 4))
            parts.append(centered(means.reshape(len(images), -1)))
    return np.stack(parts, axis=1)

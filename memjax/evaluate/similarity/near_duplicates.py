"""Images that stand more than once: by content, and nearly, in a space of normalized thumbnails.

Exact duplicates share a hash of their content. Near ones are found in two steps: nearest neighbors
among thumbnails of zero mean and unit norm, where ``‖a − b‖² = 2 (1 − ρ)``, then the normalized
cross-correlation of larger thumbnails over small shifts. Chest films all look alike, so the first
step alone would merge different patients.

References:
    Webster et al. 2023, arXiv:2303.12733, section 4 (neighbors, threshold, components).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from memjax.core.names import NEAR_DUPLICATE
from memjax.data.duplication import content_groups, first_of_group
from memjax.evaluate.similarity.knn import knn

EDGE, VERIFY_EDGE, MAX_SHIFT = 16, 48, 2
CANDIDATE, THRESHOLD = 0.8, NEAR_DUPLICATE
NEIGHBORS = 8
_CHUNK = 1024


class Duplicates(NamedTuple):
    """Groups of images that are the same or nearly so.

    Attributes:
        exact: Content group of each row; ids count from 0 in order of appearance.
        group: Component of each row, exact and near duplicates together; likewise numbered.
        pairs: Verified near pairs (rows i < j, each the first of its content group).
        ncc: Cross-correlation of each pair, in [threshold, 1].
        nearest: Distance of each row's content to the nearest other content in the thumbnail space,
            from 0 to 2; inf where there is no other.
        nearest_row: That row; −1 where there is none.
    """

    exact: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    pairs: Int[np.ndarray, "p 2"]
    ncc: Float[np.ndarray, " p"]
    nearest: Float[np.ndarray, " n"]
    nearest_row: Int[np.ndarray, " n"]


def find_duplicates(
    images: UInt8[np.ndarray, "n h w c"],
    *,
    threshold: float = THRESHOLD,
    candidate: float = CANDIDATE,
    neighbors: int = NEIGHBORS,
    max_shift: int = MAX_SHIFT,
) -> Duplicates:
    """Finds exact and near duplicates.

    Args:
        images: Images of one size.
        threshold: Least normalized cross-correlation of a near pair, in (0, 1].
        candidate: Least thumbnail correlation of a pair that is looked at more closely.
        neighbors: Nearest contents looked at per content; a larger cluster of near duplicates still
            becomes one component, because its members reach each other.
        max_shift: Largest shift tried, in pixels of a thumbnail of 48 pixels.

    Raises:
        ValueError: There are no images, or a threshold is outside (0, 1].
    """
    for name, value in (("threshold", threshold), ("candidate", candidate)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}; expected a correlation above 0, at most 1.")
    if not len(images):
        raise ValueError("There are no images to compare; expected at least one.")
    exact = content_groups(images)
    first = first_of_group(exact)
    distance, index = _neighbors(thumbnails(images[first], EDGE), neighbors)
    near, ncc = _verified(images[first], distance, index, threshold, candidate, max_shift)
    component = components(len(first), near)
    return Duplicates(
        exact=exact,
        group=_renumbered(component[exact]),
        pairs=first[near].reshape(-1, 2),
        ncc=ncc,
        nearest=distance[exact, 0],
        nearest_row=np.where(index[exact, 0] >= 0, first[index[exact, 0]], -1),
    )


def thumbnails(images: UInt8[np.ndarray, "n h w c"], edge: int) -> Float[np.ndarray, "n d"]:
    """Grey thumbnails of ``edge²`` values with zero mean and unit norm; flat images are zero."""
    small = np.stack([_shrunk(image, edge) for image in images]).reshape(len(images), -1)
    centered = small - small.mean(axis=1, keepdims=True, dtype=np.float32)
    norm = np.linalg.norm(centered, axis=1, keepdims=True)
    return np.where(norm > 1e-3, centered / np.maximum(norm, 1e-3), 0).astype(np.float32)


def _shrunk(image: np.ndarray, edge: int) -> np.ndarray:
    grey = image.astype(np.float32).mean(axis=-1)
    return np.asarray(Image.fromarray(grey).resize((edge, edge), Image.Resampling.BOX))


def shifted_ncc(
    a: Float[np.ndarray, "p e e"], b: Float[np.ndarray, "p e e"], max_shift: int
) -> Float[np.ndarray, " p"]:
    """Largest normalized cross-correlation over shifts of up to ``max_shift`` pixels.

    For each shift, both images are cut to the part they share:
    ``⟨a − ā, b − b̄⟩ / (‖a − ā‖ ‖b − b̄‖)``.
    """
    best = np.full(len(a), -1.0)
    for dy, dx in _shifts(max_shift):
        best = np.maximum(best, _ncc(_cut(a, dy, dx), _cut(b, -dy, -dx)))
    return best


def _shifts(most: int) -> Iterator[tuple[int, int]]:
    steps = range(-most, most + 1)
    yield from ((dy, dx) for dy in steps for dx in steps)


def _cut(x: np.ndarray, dy: int, dx: int) -> np.ndarray:
    height, width = x.shape[1:]
    return x[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]


def _ncc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return np.where(norm > 0, (a * b).sum((1, 2)) / np.where(norm > 0, norm, 1), 0.0)


def components(num: int, pairs: Int[np.ndarray, "p 2"]) -> Int[np.ndarray, " n"]:
    """Connected components of a graph: the smallest row of each row's component."""
    parent = np.arange(num)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for i, j in np.asarray(pairs, np.int64).reshape(-1, 2):
        low, high = sorted((root(int(i)), root(int(j))))
        parent[high] = low
    return np.array([root(node) for node in range(num)], np.int64)


def _neighbors(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if len(features) < 2:
        return np.full((len(features), 1), np.inf), np.full((len(features), 1), -1)
    return knn(features, features, min(k, len(features) - 1), exclude_self=True)


def _verified(
    images: np.ndarray,
    distance: np.ndarray,
    index: np.ndarray,
    threshold: float,
    candidate: float,
    max_shift: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Candidate pairs ``(i < j)`` whose cross-correlation reaches the threshold."""
    close = (index >= 0) & (distance <= np.sqrt(2 * (1 - candidate)) + 1e-6)
    rows = np.repeat(np.arange(len(index)), close.sum(1))
    pairs = np.unique(np.sort(np.stack([rows, index[close]], axis=1), axis=1), axis=0)
    used, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(-1, 2)
    edge = min(VERIFY_EDGE, *images.shape[1:3])
    if not len(used):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    large = np.stack([_shrunk(image, edge) for image in images[used]])
    ncc = [
        shifted_ncc(large[part[:, 0]], large[part[:, 1]], max_shift)
        for part in (place[i : i + _CHUNK] for i in range(0, len(place), _CHUNK))
    ]
    found = np.concatenate(ncc)
    return pairs[found >= threshold], found[found >= threshold]


def _renumbered(ids: np.ndarray) -> Int[np.ndarray, " n"]:
    """The same partition with ids from 0 in order of appearance."""
    seen: dict[int, int] = {}
    return np.array([seen.setdefault(int(i), len(seen)) for i in ids], np.int64)

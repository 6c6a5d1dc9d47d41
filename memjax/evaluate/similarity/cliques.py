"""Images that keep coming back: cliques among many generations of one prompt, no training data.

A prompt whose generations are alike from many initial noises is memorized: other prompts give
another image each time. Two generations are joined where the tiled distance between them is below a
threshold, and a large enough set of generations that are all joined is one image that comes back.

References:
    Carlini et al. 2023, arXiv 2301.13188, section 4.2 (generate and filter; cliques of at least 10
    among 500 generations); Tomita and Seki 2003 (branch and bound with a coloring as the bound).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.evaluate.similarity.measures import tiles_of
from memjax.evaluate.similarity.resolution import Pictures, as_unit

LEAST = 10  # generations of a clique, of Carlini et al.
EXACT = 512  # generations of one prompt up to which the largest clique is searched for exactly
_BRANCHES = 50_000  # looked at, at most, before the best clique so far is taken


class Clique(NamedTuple):
    """Generations that are all alike.

    Attributes:
        members: Their numbers, ascending.
        medoid: The one with the least mean distance to the others.
        spread: Mean distance between two of them.
        exact: Whether no larger clique is there; False where it was found greedily.
    """

    members: tuple[int, ...]
    medoid: int
    spread: float
    exact: bool


def tiled_distances(images: Pictures, tiles: int = 4) -> Float[np.ndarray, "n n"]:
    """Returns the tiled distance of every pair: the largest RMS difference of ``tiles²`` tiles.

    ``max_τ √(mean_τ (a − b)²)`` with images in [0, 1] units, so that one common background does
    not make two images alike. By ``‖a‖² + ‖b‖² − 2⟨a, b⟩`` in float64, one tile at a time.

    Args:
        images: ``[n, h, w, c]``, in [-1, 1] or bytes.
        tiles: A side.

    Raises:
        ValueError: If images have fewer pixels a side than tiles, or one is not finite.
    """
    images = np.asarray(images)
    n, height, width = images.shape[:3]
    largest = np.zeros((n, n))
    for y, x in tiles_of(height, width, tiles):
        rows = as_unit(images[:, y, x]).reshape(n, -1).astype(np.float64) / 2
        rows -= rows.mean(axis=0)  # a common background costs no digits
        square = np.einsum("nd,nd->n", rows, rows)
        gap = square[:, None] + square[None] - 2 * (rows @ rows.T)
        largest = np.maximum(largest, gap / rows.shape[1])
    if not np.isfinite(largest).all():
        raise ValueError("a generated picture is not finite: compute in --dtype=float32.")
    largest = np.sqrt((largest + largest.T) / 2)
    np.fill_diagonal(largest, 0.0)
    return largest


def find_cliques(
    distance: Float[np.ndarray, "n n"],
    threshold: float,
    *,
    least: int = LEAST,
    exact: int = EXACT,
) -> list[Clique]:
    """Returns the cliques of generations whose distances are below a threshold, largest first.

    The largest is taken away and the largest of what is left is searched for, so that they share no
    generation: a template with two variants gives two.

    Args:
        distance: Of every pair; symmetric.
        threshold: Two generations are joined where their distance is below it.
        least: Generations of a clique that counts; at least 2.
        exact: Up to how many generations the largest clique is searched for exactly, within a fixed
            number of branches; beyond, greedily.

    Raises:
        ValueError: If ``distance`` is not square and symmetric, the threshold is not a number above
            0, or ``least`` is below 2.
    """
    distance = np.asarray(distance, np.float64)
    if distance.ndim != 2 or not np.array_equal(distance, distance.T):
        raise ValueError(f"distances have shape {distance.shape}, expected a symmetric [n, n].")
    if not 0 < threshold < np.inf:
        raise ValueError(f"the threshold is {threshold}, expected a distance above 0.")
    if least < 2:
        raise ValueError(f"a clique of {least} says nothing, expected at least 2 generations.")
    joined = distance < threshold
    np.fill_diagonal(joined, False)
    left = np.arange(len(joined))
    found: list[Clique] = []
    while len(left) >= least:
        part = joined[np.ix_(left, left)]
        whole = part.sum(axis=1) >= least - 1  # others cannot be in a clique that counts
        if not whole.all():
            left = left[whole]
            continue
        members, sure = largest_clique(part) if len(left) <= exact else (greedy_clique(part), False)
        if len(members) < least:
            break
        found.append(_clique(distance, left[members], sure))
        left = np.delete(left, members)
    return sorted(found, key=lambda c: (-len(c.members), c.spread))


def _clique(distance: np.ndarray, members: np.ndarray, exact: bool) -> Clique:
    own = distance[np.ix_(members, members)]
    medoid = int(members[own.sum(axis=1).argmin()])
    spread = float(own.sum() / (len(members) * (len(members) - 1)))
    return Clique(tuple(int(m) for m in np.sort(members)), medoid, spread, exact)


def greedy_clique(joined: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, " k"]:
    """Returns a clique by peeling: the least joined is taken away until all are joined.

    Members that were taken away too early are put back where they are joined to all. It may be
    smaller than the largest one.
    """
    left = np.ones(len(joined), bool)
    degree = joined.sum(axis=1)
    while left.any() and degree[left].min() < left.sum() - 1:
        least = np.flatnonzero(left)[degree[left].argmin()]
        left[least] = False
        degree = degree - joined[least]
    for other in np.flatnonzero(~left):
        if joined[other, left].all():
            left[other] = True
    return np.flatnonzero(left)


def largest_clique(
    joined: Bool[np.ndarray, "n n"], branches: int = _BRANCHES
) -> tuple[Int[np.ndarray, " k"], bool]:
    """Returns a largest clique and whether it is proven: no more branches were needed.

    Args:
        joined: Symmetric, False on the diagonal.
        branches: Looked at, at most; then the best so far is returned.
    """
    near = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in joined]
    best = [int(i) for i in greedy_clique(joined)]
    # Each entry: the clique so far, its candidates in color order and their colors.
    stack: list[tuple[list[int], list[int], list[int]]] = []
    if near:
        stack.append(([], *_colored((1 << len(near)) - 1, near)))
    seen = 0
    while stack:
        clique, order, colors = stack[-1]
        if not order or len(clique) + colors[-1] <= len(best):
            stack.pop()
            continue
        if seen == branches:
            return np.sort(best), False
        seen += 1
        node = order.pop()
        colors.pop()
        grown = [*clique, node]
        rest = near[node] & sum(1 << other for other in order)
        if rest:
            stack.append((grown, *_colored(rest, near)))
        elif len(grown) > len(best):
            best = grown
    return np.sort(np.asarray(best, np.int64)), True


def _colored(nodes: int, near: list[int]) -> tuple[list[int], list[int]]:
    """Nodes by color, no two joined ones of one color; a clique has at most one of each."""
    order, colors, color = [], [], 0
    while nodes:
        color, free = color + 1, nodes
        while free:
            low = free & -free
            node = low.bit_length() - 1
            order.append(node)
            colors.append(color)
            nodes ^= low
            free &= ~(near[node] | low)
    return order, colors

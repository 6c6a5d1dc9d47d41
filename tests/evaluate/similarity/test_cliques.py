"""Cliques among generations: planted ones, brute force on small graphs, and the tiled distance."""

import itertools

import numpy as np
import pytest

from memjax.evaluate.similarity.cliques import (
    find_cliques,
    greedy_clique,
    largest_clique,
    tiled_distances,
)
from memjax.evaluate.similarity.measures import TiledDistance


def graph(rng, n, density):
    upper = np.triu(rng.random((n, n)) < density, 1)
    return upper | upper.T


def brute_force(joined):
    """Size of the largest clique, by looking at every set of nodes."""
    for size in range(len(joined), 0, -1):
        for nodes in itertools.combinations(range(len(joined)), size):
            if all(joined[a, b] for a, b in itertools.combinations(nodes, 2)):
                return size
    return 0


def is_clique(joined, nodes):
    return all(joined[a, b] for a, b in itertools.combinations(nodes, 2))


@pytest.mark.parametrize("seed", range(12))
def test_the_exact_search_finds_what_brute_force_finds(seed):
    rng = np.random.default_rng(seed)
    joined = graph(rng, 11, rng.uniform(0.1, 0.95))
    nodes, proven = largest_clique(joined)
    assert proven
    assert is_clique(joined, nodes)
    assert len(nodes) == brute_force(joined)
    peeled = greedy_clique(joined)
    assert is_clique(joined, peeled)
    assert 0 < len(peeled) <= len(nodes)


def test_greedy_may_miss_what_the_exact_search_finds():
    # A triangle hangs on a node of a dense bipartite part, in which no three are joined.
    joined = np.zeros((11, 11), bool)
    joined[:4, 4:8] = True
    joined[8, 9] = joined[9, 10] = joined[8, 10] = True
    joined |= joined.T
    assert len(greedy_clique(joined)) == 2
    assert largest_clique(joined)[0].tolist() == [8, 9, 10]


def test_a_search_that_is_cut_short_says_so_and_still_returns_a_clique():
    joined = graph(np.random.default_rng(0), 60, 0.8)
    nodes, proven = largest_clique(joined, branches=3)
    assert not proven
    assert is_clique(joined, nodes)
    assert len(nodes) <= len(largest_clique(joined)[0])


def planted(n=200, clique=10, size=32, noise=0.02):
    rng = np.random.default_rng(7)
    coarse = rng.uniform(-1, 1, (n, 8, 8, 1))
    images = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    members = np.sort(rng.choice(n, clique, replace=False))
    images[members] = images[members[0]] + noise * rng.standard_normal((clique, size, size, 1))
    return np.clip(images, -1, 1).astype(np.float32), tuple(int(m) for m in members)


@pytest.mark.parametrize("exact", [512, 0])
def test_a_planted_clique_of_10_among_200_images_is_found_and_nothing_else(exact):
    images, members = planted()
    (found,) = find_cliques(tiled_distances(images), 0.1, exact=exact)
    assert found.members == members
    assert found.medoid in members
    assert found.exact == bool(exact)
    # Two noises of standard deviation .02 in [-1, 1] differ by .02/√2 in [0, 1] units; the largest
    # of 16 tiles is a little more.
    assert 0.0141 < found.spread < 0.018


def test_nine_are_too_few_and_two_images_that_come_back_are_two_cliques():
    images, members = planted()
    distance = tiled_distances(images)
    assert find_cliques(distance, 0.1, least=11) == []
    others = [i for i in range(200) if i not in members][:12]
    images[others] = images[others[0]]
    found = find_cliques(tiled_distances(images), 0.1)
    assert [c.members for c in found] == [tuple(others), members]
    assert found[0].spread == pytest.approx(0, abs=1e-7)


def test_one_common_background_makes_no_clique():
    rng = np.random.default_rng(1)
    images = np.full((30, 32, 32, 1), -1.0, np.float32)
    images[:, :8, :8] = rng.uniform(-1, 1, (30, 8, 8, 1))
    whole = np.sqrt(((images[:, None] - images[None]) ** 2).mean((2, 3, 4))) / 2
    assert find_cliques((whole + whole.T) / 2, 0.15, least=20)  # a plain distance falls for it
    assert find_cliques(tiled_distances(images), 0.15) == []


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(16, 16, 1), (13, 18, 3)])
def test_distances_are_those_of_the_measure_pair_by_pair(dtype, shape):
    rng = np.random.default_rng(2)
    images = rng.uniform(0, 255, (6, *shape)).astype(np.uint8)
    images[1] = images[0]
    if dtype == np.float32:
        images = (images / 127.5 - 1).astype(np.float32)
    found = tiled_distances(images)
    measure = TiledDistance()
    for i, j in itertools.product(range(6), repeat=2):
        expected = -measure.compare(images[i : i + 1], images[j : j + 1])[0]
        assert found[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 0.0}, "the threshold is 0.0, expected a distance above 0"),
        ({"threshold": float("nan")}, "the threshold is nan"),
        ({"least": 1}, "a clique of 1 says nothing"),
        ({"distance": np.zeros((2, 3))}, "shape \\(2, 3\\), expected a symmetric"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    asked = {"distance": np.zeros((3, 3)), "threshold": 0.1} | change
    with pytest.raises(ValueError, match=words):
        find_cliques(**asked)


def test_images_smaller_than_the_tiles_and_broken_ones_are_refused():
    with pytest.raises(ValueError, match="pictures of 3×3 pixels have no 4×4 tiles"):
        tiled_distances(np.zeros((2, 3, 3, 1), np.float32))
    broken = np.full((2, 8, 8, 1), np.nan, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        tiled_distances(broken)

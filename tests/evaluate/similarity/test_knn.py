"""Ranking on the host: ties, many neighbors, orders that defeat a threshold, threads, groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.evaluate.similarity import knn as neighbors
from memjax.evaluate.similarity import knn_host
from memjax.evaluate.similarity.knn import knn
from memjax.evaluate.similarity.knn_device import rank_on_device


def _rows(seed, n, d=6):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def _reference(q, db, k, barred=None):
    """Every distance in float64, ordered by distance and row number."""
    gap = q[:, None].astype(np.float64) - db[None]
    distance = np.sqrt((gap**2).sum(-1)).astype(np.float32)
    if barred is not None:
        distance[barred] = np.inf
    index = np.argsort(distance, axis=1, kind="stable")[:, :k]
    distance = np.take_along_axis(distance, index, 1)
    return distance, np.where(np.isinf(distance), -1, index)


def _equal(got, want):
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(got[0], want[0], rtol=3e-7)  # one unit in the last place of float32


@pytest.mark.parametrize("k", [1, 17, 50, 120, 700])
@pytest.mark.parametrize("block", [64, 100, 4096])
def test_many_neighbours_equal_brute_force(k, block):
    q, db = _rows(0, 20), _rows(1, 700)
    _equal(knn(q, db, k, block=block), _reference(q, db, k))


@pytest.mark.parametrize("order", ["far first", "near first"])
def test_an_ordered_database_is_no_trap(order):
    """Far first: every block beats the best so far. Near first: nothing after the first does."""
    q, db = 0.01 * _rows(2, 15), _rows(3, 900)
    norm = (db**2).sum(1)
    db = db[np.argsort(-norm if order == "far first" else norm)]
    _equal(knn(q, db, 9, block=64), _reference(q, db, 9))


def test_ties_go_to_the_lowest_row():
    """Exact duplicates have equal keys, in one block and across blocks."""
    db = np.tile(_rows(4, 40), (5, 1))
    q = _rows(5, 12)
    for block in (16, 64, 4096):
        _equal(knn(q, db, 11, block=block), _reference(q, db, 11))
    same = np.ones((300, 4), np.float32)
    distance, index = knn(same[:3], same, 60, block=32)
    np.testing.assert_array_equal(index, np.tile(np.arange(60), (3, 1)))
    assert (distance == 0).all()


def test_threads_change_nothing(monkeypatch):
    q, db = _rows(6, 500, 16), _rows(7, 3000, 16)
    alone = knn(q, db, 20, block=256)
    monkeypatch.setattr(knn_host, "_SMALL", 1)
    monkeypatch.setattr(knn_host.os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert knn_host.num_threads(1000) == 3
    monkeypatch.setattr(knn_host, "_KEY_ELEMENTS", 3 * 256 * 64)
    _equal(knn(q, db, 20, block=256), alone)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 200),
    st.integers(1, 90),
    st.booleans(),
)
def test_groups_and_self_equal_brute_force(seed, num_queries, num_rows, block, own):
    rng = np.random.default_rng(seed)
    db, codes = _rows(seed + 1, num_rows), rng.integers(-1, 5, num_rows)
    q, of_q = (db, codes) if own else (_rows(seed, num_queries), rng.integers(-1, 5, num_queries))
    barred = (of_q[:, None] == codes[None]) & (of_q[:, None] >= 0)
    if own:
        barred |= np.eye(num_rows, dtype=bool)
    k = int(rng.integers(1, num_rows + 1))
    got = knn(q, db, k, block=block, exclude_groups=(of_q, codes), exclude_self=own)
    _equal(got, _reference(q, db, k, barred))


def test_the_device_path_finds_the_same(monkeypatch):
    q, db = _rows(8, 30), _rows(9, 333)
    codes = np.arange(30) % 4, np.arange(333) % 4
    host = knn(q, db, 12, block=64, exclude_groups=codes)
    used = []

    def spy(*args, **kwargs):
        used.append(kwargs["slab_bytes"])
        return rank_on_device(*args, **kwargs)

    monkeypatch.setattr(neighbors.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(neighbors, "rank_on_device", spy)
    _equal(knn(q, db, 12, block=64, exclude_groups=codes), host)
    assert used == [neighbors._SLAB_BYTES]


def test_packed_keys_sort_as_floats_and_then_by_row():
    key = np.array([0.5, -0.0, 0.0, -3.0, np.inf, 1e-30, -1e30, 0.5], np.float32)
    packed = knn_host._pack(key, np.arange(8)[::-1].astype(np.int64))
    np.testing.assert_array_equal(np.argsort(packed), [6, 3, 2, 1, 5, 7, 0, 4])
    np.testing.assert_array_equal(knn_host._keys_of(packed), key)
    assert packed.max() < knn_host._NOTHING
    assert knn_host._row_numbers(np.array([knn_host._NOTHING])) == -1


def test_a_bad_row_of_a_later_block_is_named():
    db = _rows(10, 50)
    db[37, 2] = np.nan
    with pytest.raises(ValueError, match="database row 37 holds a value that is not finite"):
        knn(_rows(11, 3), db, 2, block=16)
    db[37, 2] = 1e30  # its square is beyond float32: it would drop out of the ranking unseen
    with pytest.raises(ValueError, match=r"database row 37 .* too large to square"):
        knn(_rows(11, 3), db, 2, block=16)


def test_float64_rows_keep_their_digits():
    db = 1e3 + 1e-3 * np.random.default_rng(12).normal(size=(80, 5))
    distance, index = knn(db[:6] + 1e-5, db, 3)
    want = np.sqrt(((db[:6, None] + 1e-5 - db[None]) ** 2).sum(-1))
    np.testing.assert_array_equal(index, np.argsort(want, axis=1)[:, :3])
    np.testing.assert_allclose(distance, np.sort(want, axis=1)[:, :3], rtol=1e-6)


def test_no_queries_give_no_rows():
    distance, index = knn(np.zeros((0, 4), np.float32), _rows(13, 9, 4), 2)
    assert distance.shape == index.shape == (0, 2)

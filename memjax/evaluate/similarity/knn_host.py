"""Ranking database rows on the CPU: one large matrix product, then look only where it can matter.

A block of keys ``½‖b‖² − ⟨q, b⟩`` is reduced to the minima of small groups of columns. The ``k``
nearest rows lie in at most ``k`` groups, and a group whose minimum is no better than the ``k``-th
best key so far holds none of them. So almost every group is passed over after one comparison, and
the product is what takes the time.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

_INF = np.float32(np.inf)
_NOTHING = np.int64((0x7F800000 << 32) | 0xFFFFFFFF)  # key inf, row -1: sorts behind every row
_GROUP = 16  # columns a minimum stands for: fewer cost more comparisons, more cost more reading
_CROWDED = 4  # times k groups a query above which a limit from this block alone pays
_KEY_ELEMENTS = 1 << 25  # of all threads together: 128 MiB
_SMALL = 1 << 30  # multiplications below which threads cost more than they save


class Exclusion(NamedTuple):
    """Which pairs may not be returned; negative codes exclude nothing.

    Attributes:
        query: Group code of each query.
        database: Group code of each database row.
        own: The database row that each query is, or -1.
    """

    query: Int[np.ndarray, " q"]
    database: Int[np.ndarray, " n"]
    own: Int[np.ndarray, " q"]


def rank_on_host(
    q: Float[np.ndarray, "q d"],
    db: Float[np.ndarray, "n d"],
    exclusion: Exclusion,
    k: int,
    *,
    block: int,
    chunk: int,
    check: Callable[[np.ndarray, int], None],
) -> Int[np.ndarray, "q k"]:
    """Returns the rows with the ``k`` smallest keys of each query, -1 where fewer are eligible.

    Equal keys are told apart by the row number, the lowest first. Each database row is read once,
    so a memory-mapped database streams. Threads share the queries; each multiplies alone.

    Args:
        q: Queries.
        db: Database rows.
        exclusion: Pairs to leave out.
        k: Rows wanted.
        block: Database rows ranked at a time.
        chunk: Most queries ranked at a time by one thread.
        check: Called with rows (float32, centered) and the number of the first: raises on NaN.
    """
    block = min(block, len(db))
    best = np.full((len(q), k), _NOTHING)
    threads = num_threads(len(q) * len(db) * q.shape[1])
    chunk = _chunk_size(len(q), threads, block, chunk)
    center = q.mean(axis=0, dtype=np.float64).astype(np.float32)
    group = _group_size(block, k)
    rows = np.empty((block + -block % group, q.shape[1] + 1), np.float32)
    scratch = [_Scratch.make(chunk, *rows.shape) for _ in range(threads)]

    def rank_chunk(start: int, first_row: int, count: int) -> None:
        own = scratch.pop()
        part = slice(start, min(start + chunk, len(q)))
        key = _keys(own, q[part], center, rows)
        key[:, count:] = _INF
        _bar(key[:, :count], exclusion, part, first_row)
        _fold(best[part], key, first_row, group)
        scratch.append(own)

    with workers(threads) as run:
        for first_row in range(0, len(db), block):
            count = _augment(rows, db[first_row : first_row + block], center)
            check(rows[:count], first_row)
            ranked = functools.partial(rank_chunk, first_row=first_row, count=count)
            run(ranked, range(0, len(q), chunk))
    return _row_numbers(best)


@contextlib.contextmanager
def workers(threads: int) -> Iterator[Callable[[Callable[[Any], None], Iterable[Any]], None]]:
    """``with workers(n) as run: run(fn, items)`` calls in ``n`` threads, each with one-thread BLAS.

    BLAS threads that wait for each other cost more than they bring when the calls themselves are
    spread over threads. With one thread everything runs in the caller's.
    """
    if threads == 1:
        yield functools.partial(_run_all, map)
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield functools.partial(_run_all, pool.map)


def _run_all(mapper: Callable[..., Iterable[None]], fn: Callable, items: Iterable[Any]) -> None:
    for _ in mapper(fn, items):
        pass


def num_threads(multiplications: int) -> int:
    """Returns how many threads a task is worth: one if small, else the cores one may use."""
    if multiplications < _SMALL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Scratch(NamedTuple):
    """One thread's buffers: fresh pages would cost as much as the comparison."""

    queries: np.ndarray
    keys: np.ndarray

    @classmethod
    def make(cls, chunk: int, block: int, width: int) -> "_Scratch":
        return cls(np.empty((chunk, width), np.float32), np.empty((chunk, block), np.float32))


def _chunk_size(num_queries: int, threads: int, block: int, most: int) -> int:
    fits = _KEY_ELEMENTS // (threads * block)
    return max(1, min(most, max(fits, 64), math.ceil(num_queries / threads)))


def _group_size(block: int, k: int) -> int:
    """The largest power of two up to 16 that leaves two groups for each row wanted."""
    size = _GROUP
    while size > 1 and block // size < 2 * k:
        size //= 2
    return size


def _augment(rows: np.ndarray, part: np.ndarray, center: np.ndarray) -> int:
    """Fills ``(b − c, ½‖b − c‖²)``, so that a product with ``(c − q, 1)`` is the key itself."""
    count = len(part)
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the caller's check
        np.subtract(part, center, out=rows[:count, :-1])
        rows[:count, -1] = 0.5 * np.einsum("nd,nd->n", rows[:count, :-1], rows[:count, :-1])
    rows[count:] = 0.0
    return count


def _keys(scratch: _Scratch, q: np.ndarray, center: np.ndarray, rows: np.ndarray) -> np.ndarray:
    left, key = scratch.queries[: len(q)], scratch.keys[: len(q)]
    np.subtract(center, q, out=left[:, :-1])
    left[:, -1] = 1.0
    return np.matmul(left, rows.T, out=key)


def _bar(key: np.ndarray, exclusion: Exclusion, part: slice, first_row: int) -> None:
    """Sets the keys of excluded pairs to infinity."""
    own = exclusion.own[part] - first_row
    at = np.flatnonzero((exclusion.own[part] >= 0) & (own >= 0) & (own < key.shape[1]))
    key[at, own[at]] = _INF
    code = exclusion.query[part]
    if not (code >= 0).any():
        return
    blocks = exclusion.database[first_row : first_row + key.shape[1]]
    order = np.argsort(blocks, kind="stable")
    low, high = (np.searchsorted(blocks[order], code, side) for side in ("left", "right"))
    size = np.where(code >= 0, high - low, 0)
    key[np.repeat(np.arange(len(code)), size), order[_runs(size) + np.repeat(low, size)]] = _INF


def _runs(size: np.ndarray) -> np.ndarray:
    """``0 … size[0]−1, 0 … size[1]−1, …``"""
    return np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)


def _fold(best: np.ndarray, key: np.ndarray, first_row: int, group: int) -> None:
    """Puts a block's nearest rows into the packed running best ``[Q, k]``, in place.

    Group ``g`` of ``G`` is the columns ``g, g + G, g + 2G, …``: the minima are then an element-wise
    minimum of slices.
    """
    num_groups = key.shape[1] // group
    grouped = key.reshape(len(key), group, num_groups)
    minima = grouped.min(axis=1) if group > 1 else key
    limit = _limit(best, minima)
    query, at = np.nonzero(minima < limit[:, None])
    inside = grouped[query, :, at]
    hit, member = np.nonzero(inside < limit[query, None])
    column = member * num_groups + at[hit]
    _merge(best, query[hit], _pack(inside[hit, member], first_row + column))


def _limit(best: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Keys at or above it are not among a query's ``k`` best.

    The ``k``-th best so far; where many groups pass (at first, or in a database ordered from far to
    near) also just above the ``k``-th smallest minimum: that many rows are at or below it.
    """
    k = best.shape[1]
    limit = _keys_of(best[:, -1])
    crowded = np.count_nonzero(minima < limit[:, None]) > _CROWDED * k * len(best)
    if minima.shape[1] < k or not (crowded or np.isinf(limit).any()):
        return limit
    own = np.partition(minima, k - 1, axis=1)[:, k - 1]
    return np.minimum(limit, np.nextafter(own, _INF))


def _merge(best: np.ndarray, query: np.ndarray, packed: np.ndarray) -> None:
    """Sorts new entries (ordered by query) into the running best."""
    if not len(query):
        return
    k = best.shape[1]
    count = np.bincount(query, minlength=len(best))
    wide = np.full((len(best), k + count.max()), _NOTHING)
    wide[:, :k] = best
    wide[query, k + _runs(count)] = packed
    wide.sort(axis=1)
    best[:] = wide[:, :k]


def _pack(key: np.ndarray, row: np.ndarray) -> np.ndarray:
    """One int64 that sorts by key and then by row; adding zero makes −0 equal 0."""
    bits = (key + np.float32(0)).view(np.int32)
    return (_flip(bits).astype(np.int64) << 32) | row


def _keys_of(packed: np.ndarray) -> np.ndarray:
    return _flip((packed >> 32).astype(np.int32)).view(np.float32)


def _flip(bits: np.ndarray) -> np.ndarray:
    """Float bits to integers of the same order, and back: negative floats count downwards."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def _row_numbers(best: np.ndarray) -> np.ndarray:
    row = best & 0xFFFFFFFF
    return np.where(best == _NOTHING, -1, row)

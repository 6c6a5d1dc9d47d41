"""Exact nearest neighbors: rank blockwise in the expanded form, then re-score the winners."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from memjax.evaluate.similarity.knn_device import rank_on_device
from memjax.evaluate.similarity.knn_host import Exclusion, num_threads, rank_on_host, workers

NO_GROUP: tuple[object, ...] = ("", -1, None)
_EXTRA_CANDIDATES = 8  # beyond k: the expanded form may swap near-ties; re-scoring sorts them out
_SLAB_BYTES = 1 << 30  # of the database on the device at a time
_QUERY_CHUNK = 1024
_RESCORE_ELEMENTS = 1 << 19
_CHECK_ROWS = 8192

Groups = Sequence[object] | np.ndarray


def knn(
    queries: ArrayLike,
    database: ArrayLike,
    k: int,
    *,
    block: int = 4096,
    exclude_groups: tuple[Groups, Groups] | None = None,
    exclude_self: bool = False,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Returns the exact ``k`` nearest database rows of each query by ``‖a − b‖₂``, nearest first.

    Rows are ranked block by block with ``½‖b‖² − ⟨q, b⟩`` (float32; on an accelerator at the
    highest matmul precision), and the winners' distances are computed again directly: the expanded
    form loses every digit of the distance between near-duplicates. A ``numpy.memmap`` database is
    read in pieces and never whole.

    Args:
        queries: ``[Q, ...]`` floats in the same unit as the database (images: ``[-1, 1]``).
        database: ``[N, ...]`` floats.
        k: Neighbors wanted, at most ``N``.
        block: Database rows ranked at a time.
        exclude_groups: ``(query_groups [Q], database_groups [N])``: a pair with equal groups is
            never returned (same patient, say). ``""``, ``-1`` and ``None`` belong to no group.
        exclude_self: Query ``i`` *is* database row ``i``; do not return it.

    Returns:
        Distances (float32) and database row numbers; where fewer than ``k`` rows are eligible the
        distance is ``inf`` and the row ``-1``.

    Raises:
        ValueError: If shapes, dtypes or ``k`` do not fit, or a value is not finite.
    """
    q, db = _rows(queries, "queries"), _rows(database, "database")
    _check(q, db, k, exclude_self)
    codes = _codes(exclude_groups, len(q), len(db))
    own = np.arange(len(q)) if exclude_self else np.full(len(q), -1)
    candidates = min(k + _EXTRA_CANDIDATES, len(db))
    index = _rank(q, db, Exclusion(*codes, own), candidates, block)
    return _rescore(q, db, index, k)


def unique_rows(groups: Groups) -> Int[np.ndarray, " u"]:
    """Returns the first row of each group, in row order: the database without its duplicates.

    Args:
        groups: One id per row, equal for exact duplicates (``data.duplication.content_groups``).

    .. note:: With an exact duplicate left in the database the two nearest distances of a copy are
        equal, so their ratio is 1 and a perfect copy passes for a new image.
    """
    _, first = np.unique(np.asarray(groups), return_index=True)
    return np.sort(first)


def _rows(images: ArrayLike, name: str) -> np.ndarray:
    array = np.asanyarray(images)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} has dtype {array.dtype}, expected floats in [-1, 1]; "
            "convert 8-bit images with memjax.data.images.to_unit first."
        )
    if array.ndim < 2:
        raise ValueError(
            f"{name} has shape {array.shape}, expected a batch [rows, ...]; add a leading axis."
        )
    return array.reshape(len(array), math.prod(array.shape[1:]))


def _check(q: np.ndarray, db: np.ndarray, k: int, exclude_self: bool) -> None:
    if q.shape[1] != db.shape[1]:
        raise ValueError(
            f"queries have {q.shape[1]} values a row and the database {db.shape[1]}; "
            "bring both to the same image size."
        )
    if not 1 <= k <= len(db):
        raise ValueError(
            f"{k} neighbors were asked for, expected 1 to {len(db)} (the rows of the database); "
            "ask for fewer or add rows."
        )
    if exclude_self and len(q) != len(db):
        raise ValueError(
            f"exclude_self was set with {len(q)} queries and {len(db)} database rows; "
            "it needs queries and database to be the same rows."
        )
    _refuse_not_finite(q, "query")


def _refuse_not_finite(rows: np.ndarray, name: str, start: int = 0) -> None:
    """A NaN or infinity would drop out of the ranking unseen."""
    parts = [np.isfinite(rows[s]).all(axis=1) for s in _chunks(len(rows), _CHECK_ROWS)]
    bad = np.flatnonzero(~np.concatenate([np.ones(0, bool), *parts]))
    if bad.size:
        raise ValueError(
            f"{name} row {start + bad[0]} holds a value that is not finite, or too large to square "
            f"({bad.size} such rows); leave those rows out or make them again."
        )


def _codes(
    exclude: tuple[Groups, Groups] | None, nq: int, nd: int
) -> tuple[np.ndarray, np.ndarray]:
    """Integer group codes for both sides; negative = belongs to no group."""
    if exclude is None:
        return np.full(nq, -1, np.int32), np.full(nd, -1, np.int32)
    for groups, want, name in ((exclude[0], nq, "query"), (exclude[1], nd, "database")):
        if len(groups) != want:
            raise ValueError(
                f"{len(groups)} {name} groups were given for {want} rows; give one id a row."
            )
    number: dict[object, int] = dict.fromkeys(NO_GROUP, -1)
    both = [
        np.array([number.setdefault(g, len(number)) for g in np.asarray(side).tolist()], np.int32)
        for side in exclude
    ]
    return both[0], both[1]


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _rank(q, db, exclusion: Exclusion, k: int, block: int) -> Int[np.ndarray, "q k"]:
    """Candidates, on the accelerator where there is one and by BLAS where there is none."""
    if not len(q):
        return np.zeros((0, k), np.int64)
    options: dict[str, Any] = {"block": block, "chunk": _QUERY_CHUNK, "check": _refuse_database}
    if jax.default_backend() == "cpu":
        return rank_on_host(q, db, exclusion, k, **options)
    return rank_on_device(q, db, exclusion, k, slab_bytes=_SLAB_BYTES, **options)


def _refuse_database(rows: np.ndarray, start: int) -> None:
    _refuse_not_finite(rows, "database", start)


def _rescore(q, db, index, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Direct distances of the candidates, sorted (ties by row number), the first ``k`` kept."""
    distance = np.full(index.shape, np.inf, np.float32)

    def fill(s: slice) -> None:
        gap = np.subtract(db[np.maximum(index[s], 0)], q[s, None], dtype=np.float64)
        distance[s] = np.where(index[s] >= 0, np.sqrt(np.einsum("qkd,qkd->qk", gap, gap)), np.inf)

    size = max(_RESCORE_ELEMENTS // (index.shape[1] * q.shape[1]), 1)
    with workers(num_threads(index.size * q.shape[1])) as run:
        run(fill, _chunks(len(q), size))
    order = np.lexsort((index, distance), axis=1)[:, :k]
    return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)

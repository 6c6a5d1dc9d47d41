"""Ranking database rows on an accelerator: a jitted scan over blocks with a running top-k."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.evaluate.similarity.knn_host import Exclusion


def rank_on_device(
    q: Float[np.ndarray, "q d"],
    db: Float[np.ndarray, "n d"],
    exclusion: Exclusion,
    k: int,
    *,
    block: int,
    chunk: int,
    slab_bytes: int,
    check: Callable[[np.ndarray, int], None],
) -> Int[np.ndarray, "q k"]:
    """Returns the rows with the ``k`` smallest keys of each query, -1 where fewer are eligible.

    Args:
        q: Queries.
        db: Database rows.
        exclusion: Pairs to leave out.
        k: Rows wanted.
        block: Database rows ranked at a time.
        chunk: Queries ranked at a time.
        slab_bytes: Of the database on the device at a time.
        check: Called with rows (float32, centered) and the number of the first: raises on NaN.
    """
    block = min(block, len(db))
    slab = max(slab_bytes // (4 * db.shape[1] * block), 1) * block
    parts = [np.zeros((0, k), np.int64)]
    for start in range(0, len(q), chunk):
        s = slice(start, min(start + chunk, len(q)))
        own = Exclusion(exclusion.query[s], exclusion.database, exclusion.own[s])
        parts.append(_rank_chunk(q[s], db, own, k, block, slab, check))
    return np.concatenate(parts)


def _rank_chunk(q, db, exclusion: Exclusion, k: int, block: int, slab: int, check) -> np.ndarray:
    """Ranks the whole database for one chunk of queries, one slab after another."""
    center = q.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = jnp.asarray(np.asarray(q, np.float32) - center)
    best = jnp.full((len(q), k), jnp.inf), jnp.full((len(q), k), -1, jnp.int32)
    for start in range(0, len(db), slab):
        part = np.asarray(db[start : start + slab], np.float32) - center
        check(part, start)
        padding = -len(part) % block
        number = np.arange(start, start + len(part), dtype=np.int32)
        number = np.pad(number, (0, padding), constant_values=-1)
        code = np.pad(exclusion.database[start : start + slab], (0, padding), constant_values=-1)
        part = np.pad(part, ((0, padding), (0, 0)))
        blocks = part.reshape(-1, block, db.shape[1]), number.reshape(-1, block)
        codes = code.reshape(-1, block)
        best = _rank(
            best, centered, exclusion.query, exclusion.own.astype(np.int32), *blocks, codes
        )
    return np.where(np.isfinite(best[0]), best[1], -1)


@functools.partial(jax.jit, donate_argnums=0)
def _rank(best, q, q_code, own, blocks, numbers, codes):
    """Folds padded database blocks ``[n, B, D]`` into the running top-k ``(key, row)``."""
    k = best[0].shape[1]

    def fold(carry, xs):
        rows, number, code = xs
        half = 0.5 * jnp.sum(rows * rows, axis=1)
        dots = jnp.einsum("qd,bd->qb", q, rows, precision=jax.lax.Precision.HIGHEST)
        same = (q_code[:, None] == code[None]) & (q_code[:, None] >= 0)
        barred = same | (number[None] < 0) | (number[None] == own[:, None])
        key = jnp.where(barred, jnp.inf, half[None] - dots)
        top, at = jax.lax.top_k(-key, min(k, key.shape[1]))
        keys = jnp.concatenate([carry[0], -top], axis=1)
        found = jnp.concatenate([carry[1], number[at]], axis=1)
        top, at = jax.lax.top_k(-keys, k)
        return (-top, jnp.take_along_axis(found, at, axis=1)), None

    return jax.lax.scan(fold, best, (blocks, numbers, codes))[0]

"""Softmax attention without a score matrix larger than the processor's cache; its mean weights.

References:
    Vaswani et al. 2017, arXiv 1706.03762, Eq. 1; Rabe and Staats 2021, arXiv 2112.05682 (queries in
    blocks, scores recomputed for the gradient).
"""

import logging
import os

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from memjax.core.types import Array
from memjax.models.ops.splash_attention import splash, splash_takes

_log = logging.getLogger("memjax.models")
SMALL = 2**14  # query-key pairs up to which the formula is written out on every platform
WHOLE = 2**19  # and up to which it is on CPU
BLOCK = 2**21  # query-key pairs of one block on CPU: 8 MiB of scores


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b l h d"],
    value: Float[Array, "b l h d"],
    mask: Bool[Array, "b l"] | None = None,
) -> Float[Array, "b n h d"]:
    """Returns ``softmax(q kᵀ / √d) v``, over the keys that ``mask`` allows.

    Scores and their statistics are float32 whatever the dtype of the inputs.

    .. note:: On CPU the scores are normalized after the product with the values and, above
        ``WHOLE`` pairs, made in blocks that stay in cache and made again for the gradient: at
        4096 × 4096 about a quarter of the time of ``jax.nn.dot_product_attention``, which other
        platforms use above ``SMALL`` pairs: cuDNN's fused kernel on NVIDIA GPUs in 16 bits without
        a mask, XLA's own elsewhere. On TPU, where asked for, JAX's splash kernel
        (:mod:`memjax.models.ops.splash_attention`).
    """
    if query.shape[1] * key.shape[1] <= SMALL:
        return _at_once(query, key, value, mask)
    others = {"tpu": _on_tpu} if splash_takes(query, key, mask) else {}
    return jax.lax.platform_dependent(
        query, key, value, mask, cpu=_in_cache, **others, default=_by_the_library
    )


def _on_tpu(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    return splash(query, key, value)


def _by_the_library(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    if mask is None and _cudnn_takes(query):
        try:
            return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        except (RuntimeError, NotImplementedError, ValueError) as error:
            _log.info("attention without cuDNN: %s", error)
    allowed = None if mask is None else mask[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=allowed)


def _cudnn_takes(query: Array) -> bool:
    """Returns whether cuDNN's fused attention is worth asking: NVIDIA, 16 bits, head of 8 to 128.

    .. note:: It has no forward-mode derivative; ``MEMJAX_CUDNN_ATTENTION=0`` leaves it out.
    """
    if os.environ.get("MEMJAX_CUDNN_ATTENTION", "1") == "0" or jax.default_backend() != "gpu":
        return False
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128


def _in_cache(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    small = query.shape[1] * key.shape[1] <= WHOLE
    return (_at_once if small else _in_blocks)(query, key, value, mask)


def _at_once(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (query, key, value))
    return _weigh(q, k, v, None if mask is None else mask[:, None, None, :]).transpose(0, 2, 1, 3)


def _weigh(
    q: Float[Array, "*b n d"],
    k: Float[Array, "*b l d"],
    v: Float[Array, "*b l d"],
    allowed: Bool[Array, "*b l"] | None,
) -> Float[Array, "*b n d"]:
    """One softmax per row of ``q``; divided by its sum after the product with the values."""
    scores = jnp.matmul(
        q * q.shape[-1] ** -0.5, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32
    )
    if allowed is not None:
        scores = jnp.where(allowed, scores, -1e30)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return (weights.astype(v.dtype) @ v) / total.astype(v.dtype)


def _in_blocks(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    """Goes through examples, heads and blocks of queries one after the other."""
    b, n, h, d = query.shape
    rows = block_rows(n, key.shape[1])
    weigh = jax.checkpoint(_weigh)

    def one_head(arguments):
        blocks, k, v, allowed = arguments
        return jax.lax.map(lambda q: weigh(q, k, v, allowed), blocks)

    q, k, v = (y.transpose(0, 2, 1, 3).reshape(b * h, -1, d) for y in (query, key, value))
    allowed = None if mask is None else jnp.repeat(mask, h, axis=0)[:, None, :]
    y = jax.lax.map(one_head, (q.reshape(b * h, n // rows, rows, d), k, v, allowed))
    return y.reshape(b, h, n, d).transpose(0, 2, 1, 3)


def mean_weights(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b l h d"],
    mask: Bool[Array, "b l"] | None = None,
) -> Float[Array, "b l"]:
    """Returns the softmax weight of every key, averaged over heads and queries.

    ``1/(h n) Σ_{h,n} softmax_l(q kᵀ / √d)``: float32 whatever the dtype of the inputs, exactly 0
    where ``mask`` forbids a key, and otherwise of sum 1.

    .. note:: :func:`attend` may never form the weights, and what it computes must not depend on
        whether they are asked for. So they are made a second time, behind a barrier that keeps XLA
        from merging the two. Above ``SMALL`` pairs they are made in blocks of queries whose scores
        are no larger than the queries themselves, and made again for the gradient.
    """
    query, key = jax.lax.optimization_barrier((query, key))
    n, d = query.shape[1], query.shape[3]
    rows = n if n * key.shape[1] <= SMALL else block_rows(n, key.shape[1], n * d)

    @jax.checkpoint
    def block(start: Array | int) -> Float[Array, "b l"]:
        q = jax.lax.dynamic_slice_in_dim(query, start, rows, axis=1)
        scores = jnp.einsum("bnhd,blhd->bhln", q, key, preferred_element_type=jnp.float32)
        scores = scores * d**-0.5
        if mask is not None:
            scores = jnp.where(mask[:, None, :, None], scores, -1e30)
        return jnp.mean(jax.nn.softmax(scores, axis=2), axis=(1, 3))

    whole = rows == n
    weights = block(0) if whole else jnp.mean(jax.lax.map(block, jnp.arange(0, n, rows)), axis=0)
    return weights if mask is None else jnp.where(mask, weights, 0.0)


def pixel_weights(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b l h d"],
    mask: Bool[Array, "b l"] | None = None,
) -> Float[Array, "b n l"]:
    """Returns the softmax weight of every key for every query, averaged over heads.

    ``1/h Σ_h softmax_l(q kᵀ / √d)``, as :func:`mean_weights` before its mean over queries; one head
    at a time.
    """
    query, key = jax.lax.optimization_barrier((query, key))

    def of_head(pair: tuple[Array, Array]) -> Float[Array, "b n l"]:
        q, k = pair
        scores = jnp.einsum("bnd,bld->bnl", q, k, preferred_element_type=jnp.float32)
        scores = scores * q.shape[-1] ** -0.5
        if mask is not None:
            scores = jnp.where(mask[:, None, :], scores, -1e30)
        return jax.nn.softmax(scores, axis=-1)

    heads = jax.lax.map(of_head, (jnp.moveaxis(query, 2, 0), jnp.moveaxis(key, 2, 0)))
    weights = jnp.mean(heads, axis=0)
    return weights if mask is None else jnp.where(mask[:, None, :], weights, 0.0)


def block_rows(queries: int, keys: int, pairs: int | None = None) -> int:
    """Returns the most queries a block that divide them evenly and keep within ``pairs``.

    Args:
        queries: Queries in all.
        keys: Keys that each of them meets.
        pairs: The most pairs of a block; default ``BLOCK``.
    """
    most = max(1, min(queries, (BLOCK if pairs is None else pairs) // keys))
    return next(rows for rows in range(most, 0, -1) if queries % rows == 0)

"""Softmax attention without a score matrix larger than the processor's cache.

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

    .. note:: On CPU the scores are normalised after the product with the values and, above
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


def block_rows(queries: int, keys: int) -> int:
    """Returns the most queries a block that divide them evenly and keep within ``BLOCK``."""
    most = max(1, min(queries, BLOCK // keys))
    return next(rows for rows in range(most, 0, -1) if queries % rows == 0)

"""Self- and cross-attention over the pixels of a feature map, as in Stable Diffusion.

References:
    Rombach et al. 2022, arXiv 2112.10752, Eq. 3 and appendix E.2.1; Vaswani et al. 2017,
    arXiv 1706.03762 (attention); Shazeer 2020, arXiv 2002.05202 (GEGLU).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from memjax.core.types import Array, TokenCond
from memjax.models.layers import Dense, Dtype, GroupNorm

SMALL_LOGITS = 128 * 128


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b l h d"],
    value: Float[Array, "b l h d"],
    mask: Bool[Array, "b l"] | None = None,
) -> Float[Array, "b n h d"]:
    """Returns ``softmax(q kᵀ / √d) v``, over the keys that ``mask`` allows.

    .. note:: Up to ``SMALL_LOGITS`` query-key pairs it is written out, normalised after the product
        with the values: on CPU about three quarters of the time of
        ``jax.nn.dot_product_attention``, which takes over above.
    """
    if query.shape[1] * key.shape[1] > SMALL_LOGITS:
        allowed = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(query, key, value, mask=allowed)
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (query, key, value))
    logits = (q * q.shape[-1] ** -0.5 @ k.transpose(0, 1, 3, 2)).astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, -1e30)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    y = (weights.astype(v.dtype) @ v) / total.astype(v.dtype)
    return y.transpose(0, 2, 1, 3)


class Attention(nn.Module):
    """Multi-head attention; keys and values from ``context``, or from ``x`` where it is None.

    .. note:: Query, key and value projections have no bias, the output projection has one.
    """

    num_heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        context: Float[Array, "b l d"] | None = None,
        mask: Bool[Array, "b l"] | None = None,
    ) -> Float[Array, "b n c"]:
        channels = x.shape[-1]
        context = x if context is None else context

        def project(name: str, source: Array) -> Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(source)
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        y = attend(project("to_q", x), project("to_k", context), project("to_v", context), mask)
        return Dense(channels, dtype=self.dtype, name="to_out_0")(y.reshape(x.shape))


def gelu(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """Returns the exact ``x Φ(x)``; by erf, where ``jax.nn.gelu`` takes the dearer erfc."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


class FeedForward(nn.Module):
    """GEGLU with expansion 4: ``W₂ (a ⊙ gelu(g))``, ``[a, g] = W₁ x``; the exact (erf) gelu."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        channels = x.shape[-1]
        h = Dense(8 * channels, dtype=self.dtype, name="net_0_proj")(x)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * gelu(gate)
        return Dense(channels, dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each normalised before and added after."""

    num_heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], cond: TokenCond) -> Float[Array, "b n c"]:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)

        x = x + Attention(self.num_heads, self.dtype, name="attn1")(norm("norm1")(x))
        attend = Attention(self.num_heads, self.dtype, name="attn2")
        x = x + attend(norm("norm2")(x), cond.embeddings.astype(self.dtype), cond.mask)
        return x + FeedForward(self.dtype, name="ff")(norm("norm3")(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, between two projections.

    .. note:: ``proj_in`` and ``proj_out`` are 1×1 convolutions in Stable Diffusion 1 and linear
        layers in 2; in NHWC the two are the same product.
    """

    num_heads: int
    num_layers: int = 1
    num_groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], cond: TokenCond) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = GroupNorm(self.num_groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        y = Dense(c, dtype=self.dtype, name="proj_in")(y.reshape(b, h * w, c))
        for k in range(self.num_layers):
            block = TransformerBlock(self.num_heads, self.dtype, name=f"transformer_blocks_{k}")
            y = block(y, cond)
        y = Dense(c, dtype=self.dtype, name="proj_out")(y)
        return x + y.reshape(b, h, w, c)

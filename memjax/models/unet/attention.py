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
from memjax.models.ops.softmax_attention import attend, mean_weights, pixel_weights
from memjax.models.unet.layers import Dense, Dtype, GroupNorm, Halves

__all__ = [
    "MAPS",
    "PIXELS",
    "Attention",
    "FeedForward",
    "SpatialTransformer",
    "TransformerBlock",
    "attend",
    "gelu",
]
MAPS = "maps"  # the collection into which cross-attention is written, where it is mutable
PIXELS = "pixels"  # likewise, pixel by pixel


class Attention(nn.Module):
    """Multi-head attention; keys and values from ``context``, or from ``x`` where it is None.

    Where the collection ``maps`` is mutable, attention to a ``context`` writes into it how much of
    it each token draws, averaged over heads and pixels (see
    :func:`memjax.models.ops.softmax_attention.mean_weights`), and into a mutable ``pixels`` that
    of each pixel; elsewhere nothing more is computed.

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
        channels, crosses = x.shape[-1], context is not None
        context = x if context is None else context

        def project(name: str, source: Array) -> Array:
            y = Dense(channels, use_bias=False, dtype=self.dtype, name=name)(source)
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        query, key = project("to_q", x), project("to_k", context)
        y = attend(query, key, project("to_v", context), mask)
        if crosses and not self.is_initializing() and self.is_mutable_collection(MAPS):
            self.sow(MAPS, "tokens", mean_weights(query, key, mask))
        if crosses and not self.is_initializing() and self.is_mutable_collection(PIXELS):
            self.sow(PIXELS, "tokens", pixel_weights(query, key, mask))
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
        value, gate = Halves(8 * channels, dtype=self.dtype, name="net_0_proj")(x)
        h = value * gelu(gate)
        return Dense(channels, dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each normalized before and added after."""

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

"""The parts of the autoencoder: halving convolution, ResNet block without time, mid attention.

Submodules carry the names of diffusers' PyTorch modules. Statistics of the norms are float32.

References:
    Rombach et al. 2022, arXiv 2112.10752, appendix G; Esser et al. 2021, arXiv 2012.09841.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.initial import initializer
from memjax.models.ops.convolution import convolve
from memjax.models.unet.attention import attend
from memjax.models.unet.layers import Conv, Dense, Dtype, GroupNorm

EPSILON = 1e-6


class HalvingConv(nn.Module):
    """A 3×3 convolution of stride 2, padded by one row below and one column to the right.

    .. note:: Stable Diffusion's U-Net pads all four sides instead; the two differ by half a pixel.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        kernel = self.param("kernel", initializer("kernel"), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), 2, ((0, 1), (0, 1)))
        return y + bias.astype(self.dtype)[None, None, None, :]


class PlainResnetBlock(nn.Module):
    """Two normalised convolutions plus the (projected) input; no time embedding."""

    features: int
    num_groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        h = x
        for k in (1, 2):
            h = nn.silu(GroupNorm(self.num_groups, EPSILON, self.dtype, name=f"norm{k}")(h))
            h = Conv(self.features, dtype=self.dtype, name=f"conv{k}")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class PixelAttention(nn.Module):
    """One head of attention over all pixels, normalised before and added after; all biased."""

    num_groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = GroupNorm(self.num_groups, EPSILON, self.dtype, name="group_norm")(x)
        y = y.reshape(b, h * w, c)

        def project(name: str) -> Float[Array, "b n 1 c"]:
            return Dense(c, dtype=self.dtype, name=name)(y)[:, :, None, :]

        y = attend(project("to_q"), project("to_k"), project("to_v")).reshape(b, h * w, c)
        return x + Dense(c, dtype=self.dtype, name="to_out_0")(y).reshape(b, h, w, c)


class PlainMidBlock(nn.Module):
    """ResNet, attention (where wanted), ResNet at the coarsest level."""

    num_groups: int = 32
    attention: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        x = PlainResnetBlock(channels, self.num_groups, self.dtype, name="resnets_0")(x)
        if self.attention:
            x = PixelAttention(self.num_groups, self.dtype, name="attentions_0")(x)
        return PlainResnetBlock(channels, self.num_groups, self.dtype, name="resnets_1")(x)

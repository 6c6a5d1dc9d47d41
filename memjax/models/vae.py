"""The autoencoder of latent diffusion: images to a Gaussian over latents and back.

Arithmetic and parameter names follow diffusers' ``AutoencoderKL``.

References:
    Rombach et al. 2022, arXiv 2112.10752, §3.1 and appendix G (KL-regularised autoencoder); Kingma
    and Welling 2013, arXiv 1312.6114.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.initial import initializer
from memjax.models.ops.convolution import convolve
from memjax.models.unet.attention import attend
from memjax.models.unet.layers import Conv, Dense, Dtype, GroupNorm, UpsampleConv

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
    """Two normalized convolutions plus the (projected) input; no time embedding."""

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
    """One head of attention over all pixels, normalized before and added after; all biased."""

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


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The hashable recipe of an autoencoder; the defaults are Stable Diffusion 1 and 2.

    Attributes:
        in_channels: Channels of an image that is encoded.
        out_channels: Channels of a decoded image.
        block_out_channels: Channels of each level, finest first.
        layers_per_block: ResNet blocks a level of the encoder (one more in the decoder).
        latent_channels: Channels of a latent.
        norm_num_groups: Groups of every GroupNorm.
        scaling_factor: What latents are multiplied with before diffusion, so that they have
            variance one; nothing in the network uses it.
        use_quant_conv: Whether a 1×1 convolution follows the encoder.
        use_post_quant_conv: Whether a 1×1 convolution precedes the decoder.
        mid_attention: Whether the middles attend.
        dtype: Compute dtype by name; parameters and norm statistics stay float32.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_attention: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        if not self.block_out_channels:
            raise ValueError("block_out_channels is empty, expected the channels of each level.")
        for i, channels in enumerate(self.block_out_channels):
            if channels < 1 or self.norm_num_groups < 1 or channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels[{i}] is {channels}, expected a multiple of "
                    f"norm_num_groups={self.norm_num_groups}: change one of the two."
                )

    @property
    def downscale(self) -> int:
        """Pixels a side of an image that become one of a latent."""
        return 2 ** (len(self.block_out_channels) - 1)


class Moments(NamedTuple):
    """A Gaussian over latents, independent per number.

    Attributes:
        mean: In the autoencoder's own scale (diffusion sees it times ``scaling_factor``).
        log_var: Logarithm of the variance, clipped to [−30, 20].
    """

    mean: Float[Array, "b h w c"]
    log_var: Float[Array, "b h w c"]


class _Level(nn.Module):
    """What levels share: ResNet blocks in a row."""

    config: VAEConfig
    level: int

    @property
    def dtype(self) -> Dtype:
        return jnp.dtype(self.config.dtype)

    def resnets(self, x: Array, count: int) -> Array:
        features, groups = self.config.block_out_channels[self.level], self.config.norm_num_groups
        for j in range(count):
            x = PlainResnetBlock(features, groups, self.dtype, name=f"resnets_{j}")(x)
        return x


class EncoderLevel(_Level):
    """ResNet blocks, then a halving convolution except at the coarsest level."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        x = self.resnets(x, self.config.layers_per_block)
        if self.level < len(self.config.block_out_channels) - 1:
            x = HalvingConv(x.shape[-1], self.dtype, name="downsamplers_0_conv")(x)
        return x


class DecoderLevel(_Level):
    """ResNet blocks, then a doubling convolution except at the finest level."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        x = self.resnets(x, self.config.layers_per_block + 1)
        if self.level > 0:
            x = UpsampleConv(x.shape[-1], self.dtype, name="upsamplers_0_conv")(x)
        return x


def _head(c: VAEConfig, x: Array, features: int) -> Array:
    """Norm, SiLU and the last convolution; called inside a compact method."""
    dtype = jnp.dtype(c.dtype)
    x = nn.silu(GroupNorm(c.norm_num_groups, EPSILON, dtype, name="conv_norm_out")(x))
    return Conv(features, dtype=dtype, name="conv_out")(x)


class Encoder(nn.Module):
    """Image → mean and log-variance, stacked in channels, before ``quant_conv``."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hl wl 2z"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x = Conv(c.block_out_channels[0], dtype=dtype, name="conv_in")(x)
        for i in range(len(c.block_out_channels)):
            x = EncoderLevel(c, i, name=f"down_blocks_{i}")(x)
        x = PlainMidBlock(c.norm_num_groups, c.mid_attention, dtype, name="mid_block")(x)
        return _head(c, x, 2 * c.latent_channels)


class Decoder(nn.Module):
    """Latent, after ``post_quant_conv`` → image."""

    config: VAEConfig

    @nn.compact
    def __call__(self, z: Float[Array, "b hl wl z"]) -> Float[Array, "b h w c"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x = Conv(c.block_out_channels[-1], dtype=dtype, name="conv_in")(z)
        x = PlainMidBlock(c.norm_num_groups, c.mid_attention, dtype, name="mid_block")(x)
        for i, level in enumerate(reversed(range(len(c.block_out_channels)))):
            x = DecoderLevel(c, level, name=f"up_blocks_{i}")(x)
        return _head(c, x, c.out_channels)


class AutoencoderKL(nn.Module):
    """Images in [−1, 1] to a Gaussian over latents and latents to images, NHWC.

    ``module.apply({"params": params}, images, method="encode")`` and ``method="decode"``.
    """

    config: VAEConfig

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        if c.use_quant_conv:
            self.quant_conv = Dense(2 * c.latent_channels, dtype=dtype)
        if c.use_post_quant_conv:
            self.post_quant_conv = Dense(c.latent_channels, dtype=dtype)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the reconstruction from the mean."""
        return self.decode(self.encode(images).mean)

    def encode(self, images: Float[Array, "b h w c"]) -> Moments:
        """Returns the Gaussian over latents, float32 and unscaled.

        Raises:
            ValueError: A side is not a multiple of :attr:`VAEConfig.downscale`.
        """
        for side in images.shape[1:3]:
            if side < 1 or side % self.config.downscale:
                raise ValueError(
                    f"image side {side} is not divisible by {self.config.downscale}, the pixels a "
                    "side of one latent: resize the images to a multiple of it."
                )
        h = self.encoder(images)
        h = self.quant_conv(h) if self.config.use_quant_conv else h
        mean, log_var = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return Moments(mean, jnp.clip(log_var, -30.0, 20.0))

    def decode(self, latents: Float[Array, "b hl wl z"]) -> Float[Array, "b h w c"]:
        """Returns float32 images, not clipped.

        Args:
            latents: Unscaled: those of diffusion divided by ``scaling_factor``.
        """
        z = self.post_quant_conv(latents) if self.config.use_post_quant_conv else latents
        return self.decoder(z).astype(jnp.float32)

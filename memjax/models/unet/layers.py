"""The convolutional layers of the U-Net: convolution, GroupNorm, time embedding, ResNet block.

Submodules carry the names of diffusers' PyTorch modules, so that a foreign state dict maps one to
one. Statistics of the norms are float32 whatever the compute dtype.

References:
    Ho et al. 2020, arXiv 2006.11239, appendix B; Rombach et al. 2022, arXiv 2112.10752.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.types import Array
from memjax.models.initial import initializer
from memjax.models.ops.convolution import convolve

Dtype = jnp.dtype | type


def timestep_embedding(t: Int[Array, " b"], dim: int) -> Float[Array, "b dim"]:
    """Returns ``[cos(t ω_k), sin(t ω_k)]`` with ``ω_k = 10000^(−2k/dim)``.

    .. note:: Cosine first and no frequency shift: diffusers' ``flip_sin_to_cos=True,
        freq_shift=0``, as in Stable Diffusion.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def space_to_depth(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b hp wp ppc"]:
    """Folds each ``patch × patch`` square of pixels into channels (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Float[Array, "b hp wp ppc"], patch: int) -> Float[Array, "b h w c"]:
    """Undoes :func:`space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // (patch * patch))
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, -1)


class Dense(nn.Module):
    """``x W + b`` over the last axis, as one product of matrices.

    .. note:: The leading axes are folded before the product rather than contracted together in its
        gradient: for two contracted axes XLA on CPU transposes both operands of the kernel's
        gradient, which then takes about three times as long.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n f"]:
        kernel = self.param("kernel", initializer("kernel"), (x.shape[-1], self.features))
        y = jnp.dot(x.astype(self.dtype).reshape(-1, x.shape[-1]), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, :]
        return y.reshape(*x.shape[:-1], self.features)


class Halves(nn.Module):
    """A :class:`Dense` layer, one half of whose features is multiplied with the other.

    .. note:: Each half is a product of its own. Of one product split over devices by columns the
        halves would lie on different devices, and all pixels would move instead of weights.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> tuple[Array, Array]:
        half = self.features // 2
        kernel = self.param("kernel", initializer("kernel"), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        flat = x.astype(self.dtype).reshape(-1, x.shape[-1])
        kernel = kernel.astype(self.dtype)

        def part(columns: slice) -> Array:
            y = jnp.dot(flat, kernel[:, columns]) + bias[None, columns]
            return y.reshape(*x.shape[:-1], half)

        return part(slice(None, half)), part(slice(half, None))


class Conv(nn.Module):
    """A square convolution with bias, padded by ``kernel_size // 2`` on every side."""

    features: int
    kernel_size: int = 3
    strides: int = 1
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        init = nn.initializers.zeros if self.zero_init else initializer("kernel")
        k, pad = self.kernel_size, (self.kernel_size // 2, self.kernel_size // 2)
        kernel = self.param("kernel", init, (k, k, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel.astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.strides, (pad, pad))
        return y + bias.astype(self.dtype)[None, None, None, :]


def phase_taps(kernel: Float[Array, "3 3 c f"]) -> list[list[Float[Array, "2 2 c f"]]]:
    """Returns the 2×2 taps with which output pixels ``(2i + p, 2j + q)`` see the small image.

    Two neighboring taps of the kernel meet the same pixel, so they are summed: the last two for
    phase 0, the first two for phase 1. As sums of slices it is a tenth of the time of a product
    with the 0/1 matrix of the phases, which at 1280 channels exceeds that of the convolution.
    """

    def pair(k: Array, axis: int) -> list[Array]:
        one, two, three = jnp.split(k, 3, axis)
        return [jnp.concatenate(ends, axis) for ends in ((one, two + three), (one + two, three))]

    return [pair(rows, 1) for rows in pair(kernel, 0)]


class UpsampleConv(nn.Module):
    """Nearest-neighbor doubling, then a 3×3 convolution, without the doubled image.

    Each of the four output phases sees only 2×2 different pixels, so it is a 2×2 convolution of
    the small image with summed taps: 16 products a pixel instead of 36.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w f"]:
        b, h, w, c = x.shape
        kernel = self.param("kernel", initializer("kernel"), (3, 3, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        taps = jax.tree.map(lambda k: k.astype(self.dtype), phase_taps(kernel))
        x = x.astype(self.dtype)
        rows = []
        for p in (0, 1):
            row = [convolve(x, taps[p][q], 1, ((1 - p, p), (1 - q, q))) for q in (0, 1)]
            rows.append(jnp.stack(row, axis=3))
        y = jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, self.features)
        return y + bias.astype(self.dtype)[None, None, None, :]


class GroupNorm(nn.Module):
    """Group normalization, ``γ (x − μ_g) / √(σ²_g + ε) + β``, as one scale and one shift.

    .. note:: Sums over pixels are taken per channel and only then per group, by a product with the
        groups' membership matrix: the image is read once for the statistics and once to be scaled,
        and never reshaped. The barrier keeps XLA from redoing the small arithmetic per pixel.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))
        x32 = x.astype(jnp.float32)
        mean = self._group_mean(jnp.mean(x32, axis=(1, 2)))
        square = self._group_mean(jnp.mean(x32 * x32, axis=(1, 2)))
        variance = jnp.maximum(square - mean * mean, 0.0)
        scale = jax.lax.rsqrt(variance + self.epsilon) * gamma[None, :]
        scale, shift = jax.lax.optimization_barrier((scale, beta[None, :] - mean * scale))
        return (x32 * scale[:, None, None, :] + shift[:, None, None, :]).astype(self.dtype)

    def _group_mean(self, per_channel: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """Replaces each channel's value by the mean over its group."""
        size = per_channel.shape[1] // self.num_groups
        member = np.repeat(np.eye(self.num_groups, dtype=np.float32), size, axis=0)
        groups = jnp.dot(per_channel, member / size, precision="highest")
        return jnp.dot(groups, member.T, precision="highest")


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, Linear: diffusers' ``TimestepEmbedding``."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b f"]:
        x = Dense(self.features, dtype=self.dtype, name="linear_1")(x)
        return Dense(self.features, dtype=self.dtype, name="linear_2")(nn.silu(x))


class ResnetBlock(nn.Module):
    """Two normalized convolutions with the time embedding added between, plus the input."""

    features: int
    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"]
    ) -> Float[Array, "b h w f"]:
        norm = functools.partial(GroupNorm, self.num_groups, self.epsilon, self.dtype)
        h = nn.silu(norm(name="norm1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        shift = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(nn.silu(emb))
        h = nn.silu(norm(name="norm2")(h + shift[:, None, None, :]))
        h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class PlaneConv(nn.Module):
    """A padded 3×3 convolution of few channels at many pixels, channels first.

    .. note:: As one product of a small matrix with whole planes, whose nine shifts are taken before
        the product or after it, on the side of fewer channels. XLA's convolution of a handful of
        channels and its gradients take two to four times as long on CPU.
    """

    features: int
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "c b h w"]) -> Float[Array, "f b h w"]:
        init = nn.initializers.zeros if self.zero_init else initializer("kernel")
        kernel = self.param("kernel", init, (3, 3, x.shape[0], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if x.shape[0] <= self.features:
            shifted = jnp.concatenate(_shifts(x))
            y = self._product(kernel.reshape(-1, self.features).T, shifted)
        else:
            flat = kernel.transpose(0, 1, 3, 2).reshape(-1, x.shape[0])
            taps = self._product(flat, x).reshape(9, self.features, *x.shape[1:])
            y = sum(_shifts(taps[k])[k] for k in range(9))
        return y + bias[:, None, None, None]

    def _product(self, matrix: Float[Array, "m c"], x: Float[Array, "c b h w"]) -> Array:
        y = jnp.dot(matrix, x.reshape(x.shape[0], -1))
        return y.reshape(-1, *x.shape[1:])


def _shifts(x: Float[Array, "*n h w"]) -> list[Float[Array, "*n h w"]]:
    """Returns each pixel's nine neighbors as planes, by row and column; zeros outside."""
    height, width = x.shape[-2:]
    x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 2), (1, 1), (1, 1)])
    return [x[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]


class Refinement(nn.Module):
    """A residual at full resolution, ``y + W₂ * silu(W₁ * [y, x] + W₃ silu(emb))``.

    What unfolds patches writes each of their pixels with weights of its own, so that nothing makes
    two sides of a border agree. Here the same two 3×3 kernels meet every pixel, and the pixel's own
    noisy value. It starts as the identity: ``W₂`` (``conv_residual``) is zero.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, y: Float[Array, "b h w c"], x: Float[Array, "b h w d"], emb: Float[Array, "b e"]
    ) -> Float[Array, "b h w c"]:
        y, channels = y.astype(self.dtype), y.shape[-1]
        both = jnp.concatenate([y, x.astype(self.dtype)], axis=-1)
        h = PlaneConv(self.features, dtype=self.dtype, name="conv_joint")(jnp.moveaxis(both, -1, 0))
        shift = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(nn.silu(emb))
        h = nn.silu(h + shift.T[:, :, None, None])
        residual = PlaneConv(channels, zero_init=True, dtype=self.dtype, name="conv_residual")(h)
        return y + jnp.moveaxis(residual, 0, -1)

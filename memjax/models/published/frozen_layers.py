"""Layers of published convolutional networks, for inference: convolution, fixed norm, pooling.

Submodules of the networks built from them carry the keys of the published PyTorch state dicts,
dots included, so that weights map one to one. Kernels start at zero: they come from a file.

References:
    Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithm 2 (normalization with population statistics).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array

Pair = tuple[int, int]


class FrozenBatchNorm(nn.Module):
    """``(x − μ) / √(σ² + ε) · γ + β`` with stored statistics; nothing is updated."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        gamma = self.param("scale", nn.initializers.ones, shape)
        beta = self.param("bias", nn.initializers.zeros, shape)
        mean = self.param("mean", nn.initializers.zeros, shape)
        var = self.param("var", nn.initializers.ones, shape)
        scale = gamma * jax.lax.rsqrt(var + self.epsilon)
        return x * scale[None, None, None] + (beta - mean * scale)[None, None, None]


class FrozenConv(nn.Module):
    """A convolution with PyTorch's padding: ``padding`` zeros on both sides of each axis.

    Attributes:
        features: Output channels.
        kernel_size: Height and width of the kernel.
        stride: Step of the output in both directions.
        padding: Zeros above and below, and left and right.
        groups: Channels are cut into so many independent convolutions.
        use_bias: Whether a bias is added.
    """

    features: int
    kernel_size: Pair
    stride: int = 1
    padding: Pair = (0, 0)
    groups: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        y = jax.lax.conv_general_dilated(
            x,
            self.param("kernel", nn.initializers.zeros, shape),
            (self.stride, self.stride),
            [(p, p) for p in self.padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias[None, None, None]
        return y


def max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: int = 0
) -> Float[Array, "b h2 w2 c"]:
    """Returns the largest value of each window; padding never wins."""
    edges = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), (stride, stride), edges)


def avg_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: int = 0
) -> Float[Array, "b h2 w2 c"]:
    """Returns the mean of each window over real pixels: padding is not counted."""
    edges = ((padding, padding), (padding, padding))
    return nn.avg_pool(x, (window, window), (stride, stride), edges, count_include_pad=False)


def global_mean(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Returns each channel's mean over the image."""
    return jnp.mean(x, axis=(1, 2))

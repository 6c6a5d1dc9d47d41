"""DenseNet-121 for one-channel chest X-rays, as in torchxrayvision: its pooled features.

References:
    Huang et al. 2017, arXiv 1608.06993, Table 1; Cohen et al. 2022, arXiv 2111.00595, §2.2 (input
    of 224×224 pixels in [−1024, 1024]).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.published.frozen_layers import (
    FrozenBatchNorm,
    FrozenConv,
    avg_pool,
    global_mean,
    max_pool,
)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1 convolution to ``4 · growth``; norm, ReLU, 3×3 to ``growth``; appended."""

    growth: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c+g"]:
        y = nn.relu(FrozenBatchNorm(name="norm1")(x))
        y = FrozenConv(4 * self.growth, (1, 1), name="conv1")(y)
        y = nn.relu(FrozenBatchNorm(name="norm2")(y))
        y = FrozenConv(self.growth, (3, 3), padding=(1, 1), name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1×1 convolution to half the channels, mean over 2×2 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c//2"]:
        y = nn.relu(FrozenBatchNorm(name="norm")(x))
        return avg_pool(FrozenConv(x.shape[-1] // 2, (1, 1), name="conv")(y), 2, 2)


class DenseNet(nn.Module):
    """Features before the classifier, ReLU'd and averaged: 1,024 numbers for DenseNet-121.

    Attributes:
        num_layers: Dense layers in each block.
        growth: Channels a dense layer adds.
        first_features: Channels of the first convolution.
    """

    num_layers: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    first_features: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 1"]) -> Float[Array, "b f"]:
        """Returns features of images in [−1024, 1024]."""
        x = FrozenConv(self.first_features, (7, 7), 2, (3, 3), name="features.conv0")(x)
        x = max_pool(nn.relu(FrozenBatchNorm(name="features.norm0")(x)), 3, 2, 1)
        for block, count in enumerate(self.num_layers, start=1):
            for k in range(1, count + 1):
                name = f"features.denseblock{block}.denselayer{k}"
                x = DenseLayer(self.growth, name=name)(x)
            if block < len(self.num_layers):
                x = Transition(name=f"features.transition{block}")(x)
        return global_mean(nn.relu(FrozenBatchNorm(name="features.norm5")(x)))

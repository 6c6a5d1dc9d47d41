"""SSCD: the copy-detection descriptor that replication studies measure with.

A ResNet (or ResNeXt) trunk, generalized-mean pooling, one linear layer, unit length; the similarity
of two images is the dot product of their descriptors.

References:
    Pizzi et al. 2022, arXiv 2202.10261, §3 and §4.1; He et al. 2016, arXiv 1512.03385 (the stride
    sits on the 3×3 convolution, as in torchvision); Xie et al. 2017, arXiv 1611.05431 (ResNeXt);
    Radenović et al. 2018, arXiv 1711.02512, Eq. 3 (GeM pooling).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.published.frozen_layers import FrozenBatchNorm, FrozenConv, max_pool
from memjax.models.unet.layers import Dense


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided, grouped) and 1×1 convolution, added to the (projected) input.

    Attributes:
        features: Output channels.
        width: Channels of the 3×3 convolution.
        stride: Its stride.
        groups: Its groups.
        project: Whether the input goes through a strided 1×1 convolution first.
    """

    features: int
    width: int
    stride: int = 1
    groups: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        y = FrozenConv(self.width, (1, 1), name="conv1")(x)
        y = nn.relu(FrozenBatchNorm(name="bn1")(y))
        conv = FrozenConv(self.width, (3, 3), self.stride, (1, 1), self.groups, name="conv2")
        y = nn.relu(FrozenBatchNorm(name="bn2")(conv(y)))
        y = FrozenConv(self.features, (1, 1), name="conv3")(y)
        y = FrozenBatchNorm(name="bn3")(y)
        if self.project:
            x = FrozenConv(self.features, (1, 1), self.stride, name="downsample.0")(x)
            x = FrozenBatchNorm(name="downsample.1")(x)
        return nn.relu(x + y)


class SSCD(nn.Module):
    """Descriptors of unit length; the defaults are ``sscd_disc_mixup`` (ResNet-50, 512 numbers).

    Attributes:
        num_blocks: Bottlenecks in each of the four stages.
        groups: Groups of the 3×3 convolutions; 1 is ResNet.
        group_width: Channels of one group in the first stage; doubled in each later one.
        embedding_dim: Length of the descriptor.
        gem_power: Exponent p of the pooling ``(mean max(x, 10⁻⁶)^p)^(1/p)``.
    """

    num_blocks: tuple[int, ...] = (3, 4, 6, 3)
    groups: int = 1
    group_width: int = 64
    embedding_dim: int = 512
    gem_power: float = 3.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns descriptors of images that are already normalized for the network."""
        x = FrozenConv(64, (7, 7), 2, (3, 3), name="conv1")(x)
        x = max_pool(nn.relu(FrozenBatchNorm(name="bn1")(x)), 3, 2, 1)
        for stage, count in enumerate(self.num_blocks):
            width = self.groups * self.group_width * 2**stage
            for k in range(count):
                stride = 2 if stage > 0 and k == 0 else 1
                x = Bottleneck(
                    256 * 2**stage, width, stride, self.groups, k == 0, name=f"layer{stage + 1}.{k}"
                )(x)
        x = generalized_mean(x, self.gem_power)
        x = Dense(self.embedding_dim, name="fc")(x)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def generalized_mean(x: Float[Array, "b h w c"], power: float) -> Float[Array, "b c"]:
    """Returns ``(mean max(x, 10⁻⁶)^p)^(1/p)`` over the image: between mean and maximum."""
    return jnp.mean(jnp.maximum(x, 1e-6) ** power, axis=(1, 2)) ** (1.0 / power)


SSCD_DISC_MIXUP = SSCD()
SSCD_DISC_LARGE = SSCD((3, 4, 23, 3), groups=32, group_width=4, embedding_dim=1024)

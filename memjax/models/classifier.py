"""A small classifier of findings: is what the prompt asked for still in the image?"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.models.initial import draw_params
from memjax.models.unet.layers import Conv, Dense, GroupNorm


class FindingClassifier(nn.Module):
    """Four halving convolutions, mean and max over what is left, one linear layer.

    Attributes:
        num_outputs: Number of findings; one independent logit each.
        width: Channels of the first convolution; doubled twice.
    """

    num_outputs: int
    width: int = 16

    def setup(self) -> None:
        widths = [self.width, 2 * self.width, 4 * self.width, 4 * self.width]
        self.convs = [Conv(width, strides=2) for width in widths]
        self.norms = [GroupNorm(8) for _ in widths]
        self.head = Dense(self.num_outputs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        return self.head(self.features(x))

    def features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """Returns the ``8 · width`` features the logits are linear in."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.silu(norm(conv(x)))
        return jnp.concatenate([jnp.mean(x, axis=(1, 2)), jnp.max(x, axis=(1, 2))], axis=-1)

    def init_params(self, key: Array, image_size: int, channels: int = 1) -> Params:
        """Returns freshly drawn parameters (the 'params' tree itself)."""
        x = jnp.zeros((1, image_size, image_size, channels), jnp.float32)
        return draw_params(self, key, x)

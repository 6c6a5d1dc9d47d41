"""A small convolutional encoder: one short row of numbers an image, for telling copies.

References:
    Dar et al., arXiv 2307.01148, section 2.2; arXiv 2402.01054, methods.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.models.initial import draw_params
from memjax.models.unet.layers import Conv, Dense, GroupNorm

GRID = 4
MIN_SIDE = 16


class CopyEncoderNetwork(nn.Module):
    """Halving convolutions down to about 4×4, means over a 4×4 grid, one linear layer.

    The grid keeps *where* things are: an average over the whole image would call two patients
    with the same findings alike.

    Attributes:
        features: Length of the embedding.
        width: Channels of the first convolution; doubled at each halving, at most fourfold.
    """

    features: int = 64
    width: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        for level in range(num_halvings(min(x.shape[1:3]))):
            width = self.width * min(2**level, 4)
            x = Conv(width, strides=2, name=f"conv_{level}")(x)
            x = nn.silu(GroupNorm(8, name=f"norm_{level}")(x))
        down, across = grid_means(x.shape[1]), grid_means(x.shape[2])
        x = jnp.einsum("vw,bhwc->bhvc", across, x)
        x = jnp.einsum("uh,bhvc->buvc", down, x)
        return Dense(self.features, name="head")(x.reshape(len(x), -1))

    def init_params(self, key: Array, image_shape: tuple[int, int, int]) -> Params:
        """Returns freshly drawn parameters.

        Raises:
            ValueError: If an image is smaller than 16 pixels, or ``width`` is no multiple of 8.
        """
        if min(image_shape[:2]) < MIN_SIDE:
            raise ValueError(
                f"images are {image_shape[0]}×{image_shape[1]} pixels, the copy encoder needs at "
                f"least {MIN_SIDE}; enlarge them first."
            )
        if self.width % 8:
            raise ValueError(f"width is {self.width}; expected a multiple of 8.")
        return draw_params(self, key, jnp.zeros((1, *image_shape), jnp.float32))


def num_halvings(side: int) -> int:
    """Returns how often a side can be halved before it is shorter than the grid."""
    return max(int(np.floor(np.log2(side / GRID))), 0)


def grid_means(size: int) -> Float[np.ndarray, "4 size"]:
    """Returns the matrix of means over four stretches of ``size`` pixels (they may overlap)."""
    rows = np.zeros((GRID, size), np.float32)
    for cell in range(GRID):
        start, stop = cell * size // GRID, -(-(cell + 1) * size // GRID)
        rows[cell, start:stop] = 1 / (stop - start)
    return rows

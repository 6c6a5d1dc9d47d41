"""Small numerical pieces that must be right everywhere."""

import math

import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array


def per_example_norm(x: Float[Array, "b *d"], *, rms: bool = False) -> Float[Array, " b"]:
    """Returns each example's l2 norm over all non-batch axes, in float32 and safe at zero.

    Args:
        x: A batch; any float dtype.
        rms: Divide by ``√d``: comparable between image sizes. Published thresholds are for the
            raw norm of 16,384-dimensional Stable Diffusion latents.

    .. note:: The gradient at exactly zero is zero, not NaN; a value that is not a number gives NaN.
    """
    flat = x.reshape(x.shape[0], -1).astype(jnp.float32)
    squares = jnp.sum(flat * flat, axis=1)
    zero = squares == 0  # not `> 0`: a NaN must stay one, and not look like "not memorized"
    norm = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))
    return norm / math.sqrt(flat.shape[1]) if rms else norm

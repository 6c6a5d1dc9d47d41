"""Small changes under which a picture stays a copy of itself.

References:
    Dar et al., arXiv 2307.01148, section 2.2, and arXiv 2402.01054, methods (which changes).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed; every amount is drawn evenly up to the one given.

    Attributes:
        degrees: Rotation either way.
        scale: Enlargement or reduction, as a share.
        shift: Shift either way, as a share of the side.
        contrast: Change of contrast about the picture's mean, as a share.
        brightness: Change of brightness, in units of [-1, 1].
        blur: Standard deviation of a Gaussian blur, as a share of the side.
        noise: Standard deviation of added noise, in units of [-1, 1].
        flip: Whether left and right may be swapped. Off: in chest films they differ (the heart).
    """

    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    contrast: float = 0.25
    brightness: float = 0.15
    blur: float = 1 / 32
    noise: float = 0.1
    flip: bool = False


@partial(jax.jit, static_argnums=2)
def augment(
    key: Array, images: Float[Array, "n h w c"], amount: Augmentation
) -> Float[Array, "n h w c"]:
    """Turns, scales and shifts in one resampling, blurs, then changes grey values and adds noise.

    Args:
        key: A typed key.
        images: Pictures in [-1, 1].
        amount: How far; static.

    Returns:
        Pictures in [-1, 1].
    """
    keys = jax.random.split(key, 8)
    n, h = images.shape[:2]
    draw = partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(amount.degrees) * draw(keys[0], (n,))
    zoom = 1.0 + amount.scale * draw(keys[1], (n,))
    images = resample(images, angle, zoom, amount.shift * h * draw(keys[2], (n, 2)))
    if amount.flip:
        swap = jax.random.bernoulli(keys[7], 0.5, (n, 1, 1, 1))
        images = jnp.where(swap, images[:, :, ::-1], images)
    if amount.blur:
        images = blurred(images, amount.blur * h * jax.random.uniform(keys[3], (n,)))
    gain = 1.0 + amount.contrast * draw(keys[4], (n, 1, 1, 1))
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + gain * (images - mean) + amount.brightness * draw(keys[5], (n, 1, 1, 1))
    noise_key, level_key = jax.random.split(keys[6])
    level = amount.noise * jax.random.uniform(level_key, (n, 1, 1, 1))
    return jnp.clip(images + level * jax.random.normal(noise_key, images.shape), -1.0, 1.0)


def resample(
    images: Float[Array, "n h w c"],
    angle: Float[Array, " n"],
    zoom: Float[Array, " n"],
    shift: Float[Array, "n 2"],
) -> Float[Array, "n h w c"]:
    """Rotates about the centre (radians), zooms and shifts (pixels down, right), bilinearly.

    Beyond the edge the nearest pixel is repeated.
    """
    h, w = images.shape[1:3]
    down, right = jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    y = down[None, :, None] - shift[:, 0, None, None]
    x = right[None, None, :] - shift[:, 1, None, None]
    cos, sin = (f(angle)[:, None, None] / zoom[:, None, None] for f in (jnp.cos, jnp.sin))
    rows = jnp.clip(cos * y - sin * x + (h - 1) / 2, 0, h - 1)
    columns = jnp.clip(sin * y + cos * x + (w - 1) / 2, 0, w - 1)
    return jax.vmap(_bilinear)(images, rows, columns)


def _bilinear(
    image: Float[Array, "h w c"], rows: Float[Array, "u v"], columns: Float[Array, "u v"]
) -> Float[Array, "u v c"]:
    h, w = image.shape[:2]
    top = jnp.clip(jnp.floor(rows), 0, h - 2).astype(jnp.int32)
    left = jnp.clip(jnp.floor(columns), 0, w - 2).astype(jnp.int32)
    low, near = (rows - top)[..., None], (columns - left)[..., None]
    above = (1 - near) * image[top, left] + near * image[top, left + 1]
    below = (1 - near) * image[top + 1, left] + near * image[top + 1, left + 1]
    return (1 - low) * above + low * below


def blurred(images: Float[Array, "n h w c"], sigma: Float[Array, " n"]) -> Float[Array, "n h w c"]:
    """Blurs each picture with its own Gaussian (pixels); weights are renormalised at the edge."""
    down, across = (_blur_matrix(size, sigma) for size in images.shape[1:3])
    images = jnp.einsum("nvw,nhwc->nhvc", across, images)
    return jnp.einsum("nuh,nhvc->nuvc", down, images)


def _blur_matrix(size: int, sigma: Float[Array, " n"]) -> Float[Array, "n size size"]:
    at = jnp.arange(size)
    gap = (at[:, None] - at[None]).astype(jnp.float32)[None]
    weights = jnp.exp(-0.5 * (gap / jnp.maximum(sigma, 1e-3)[:, None, None]) ** 2)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)

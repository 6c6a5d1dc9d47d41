"""Whether the images of a prompt have their edges in the same places, whatever the noise.

References:
    Webster, "A Reproducible Extraction of Training Images from Diffusion Models", 2023,
    arXiv 2305.08694.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from memjax.core.types import Array, Detector, Domain, Steps
from memjax.detectors.base import refuse_outside


@dataclasses.dataclass(frozen=True)
class EdgeConsistency(Detector):
    """Cross-seed edge consistency: share of pixels that are an edge in most images of a prompt.

    A pixel is an edge where the length of the Sobel gradient, summed over the three colors of an
    image in [0, 1], is above ``edge``; and a consensus where that holds in more than ``agree`` of
    the prompt's images. The score is the share of consensus pixels. It asks for nothing but images.

    Attributes:
        edge: Least gradient of an edge. The Sobel filter is not normalized: a step from black to
            white is 4 a color.
        agree: Share of the images that must be exceeded.
        size: Images are resized to ``size × size`` pixels first (Lanczos); 0: not at all. The
            gradient of an enlarged image is smaller, so that ``edge`` belongs to a size.
        steps: The images are those of the last step.

    .. note:: Published for the image after a *single* step from pure noise, with 4 noises: that is
        ``num_steps=1`` with ``spacing="trailing"``. Gray images count as three equal colors. The
        share depends on how busy images are, and is high for any prompt where all images show the
        same thing in the same place: calibrate on ordinary prompts of the same kind. On a network
        trained on drawn films, finished images ranked rightly and those of a single step the wrong
        way round: all of them are of one composition.

    References:
        Webster 2023, arXiv 2305.08694 (its black-box attack).
    """

    domain: ClassVar[Domain] = "images"
    cost: ClassVar[str] = "no evaluations; the finished images, two a prompt or more"
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    differentiable: ClassVar[bool] = False

    edge: float = 1.5
    agree: float = 0.5
    size: int = 256
    steps: Steps | None = "last"

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        refuse_outside(self, agree=(0.0, 1.0))

    def __call__(self, images: Float[Array, "p g h w c"], net: None) -> Float[Array, " p"]:
        del net

        def of_prompt(of: Float[Array, "g h w c"]) -> Float[Array, ""]:
            found = edges(resized(0.5 * (of + 1.0), self.size), self.edge)
            return jnp.mean(jnp.mean(found, axis=0) > self.agree)

        return jax.lax.map(of_prompt, images)


def resized(images: Float[Array, "g h w c"], size: int) -> Float[Array, "g h2 w2 c"]:
    """Returns images of ``size × size`` pixels, or as they are where size is 0."""
    shape = (len(images), size, size, images.shape[-1])
    return jax.image.resize(images, shape, "lanczos3") if size else images


def edges(images: Float[Array, "g h w c"], least: float) -> Bool[Array, "g h w"]:
    """Returns where the Sobel gradient is above ``least``; borders mirror the image."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")

    def smooth(x: Array, axis: int) -> Array:
        n = x.shape[axis] - 2
        a, b, c = (jax.lax.slice_in_dim(x, k, k + n, axis=axis) for k in range(3))
        return a + 2.0 * b + c

    def slope(x: Array, axis: int) -> Array:
        n = x.shape[axis] - 2
        return jax.lax.slice_in_dim(x, 2, n + 2, axis=axis) - jax.lax.slice_in_dim(
            x, 0, n, axis=axis
        )

    down, across = slope(smooth(padded, 2), 1), slope(smooth(padded, 1), 2)
    length = jnp.mean(jnp.hypot(down, across), axis=-1)
    return 3.0 * length > least

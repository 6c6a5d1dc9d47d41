"""How alike the images of a prompt are, whatever the noise.

References:
    Hintersdorf et al., "Finding NeMo: Localizing Neurons Responsible For Memorization in Diffusion
    Models", NeurIPS 2024, arXiv 2406.02366.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.ssim import WINDOW, one_to_many
from memjax.core.types import Array, Detector, Domain, Steps
from memjax.detectors.base import refuse_outside


@dataclasses.dataclass(frozen=True)
class SeedSimilarity(Detector):
    """Seed-pair structural similarity: (MS-)SSIM of the two most alike images of a prompt.

    ``max_{i<j} SSIM(x_i, x_j)`` over the images from different noises, each channel stretched to
    its own range first.

    Attributes:
        scales: Most scales of the multi-scale form, of equal weight; as many are taken as a window
            of 11 pixels fits into, 1 for images below 22 pixels.
        over: ``max`` is the most alike pair; ``mean`` the mean of all pairs, which does not grow
            with the number of images.
        stretch: Whether each channel of an image is stretched to its own range.
        steps: The images are those of the last step.

    .. note:: Published is the similarity of the noise that one evaluation takes away,
        ``ε(x_T, t, c) − x_T``, with 10 noises and without guidance. What is compared here is the
        image. After a single step (``num_steps=1``, ``spacing="trailing"``, ``guidance_scale=1``)
        from a state that is nearly all noise the two differ in sign and level only, and stretching
        takes out the level. The published threshold of 0.428 holds for neither. Windows of small
        images are smaller (see :mod:`memjax.core.ssim`).

    References:
        Hintersdorf et al., NeurIPS 2024, arXiv 2406.02366 (its memorization score).
    """

    domain: ClassVar[Domain] = "images"
    cost: ClassVar[str] = "no evaluations; the finished images, two a prompt or more"
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    differentiable: ClassVar[bool] = False

    scales: int = 3
    over: Literal["max", "mean"] = "max"
    stretch: bool = True
    steps: Steps | None = "last"

    def __post_init__(self) -> None:
        """Refuses no scale."""
        refuse_outside(self, scales=(1, math.inf))

    def __call__(self, images: Float[Array, "p g h w c"], net: None) -> Float[Array, " p"]:
        del net
        if min(images.shape[2:4]) < 3:
            raise ValueError(
                f"SeedSimilarity got images of {images.shape[2:4]} pixels, expected 3 or more."
            )
        side, g = min(images.shape[2:4]), images.shape[1]
        count = max(sum(side // 2**scale >= WINDOW for scale in range(self.scales)), 1)
        pairs = jnp.triu(jnp.ones((g, g), bool), k=1)

        def of_prompt(of: Float[Array, "g h w c"]) -> Float[Array, ""]:
            of = stretched(of) if self.stretch else of
            last = of.transpose(1, 2, 3, 0)
            alike = jax.lax.map(lambda x: one_to_many((1.0 / count,) * count, x, last), of)
            if self.over == "mean":
                return jnp.sum(jnp.where(pairs, alike, 0.0)) / (g * (g - 1) / 2)
            return jnp.max(jnp.where(pairs, alike, -jnp.inf))

        return jax.lax.map(of_prompt, images)


def stretched(images: Float[Array, "g h w c"]) -> Float[Array, "g h w c"]:
    """Returns images whose channels all go from −1 to 1; a flat channel is −1 throughout."""
    low = images.min(axis=(1, 2), keepdims=True)
    width = images.max(axis=(1, 2), keepdims=True) - low
    return 2.0 * (images - low) / jnp.where(width == 0, 1.0, width) - 1.0

"""The magnitude of the conditional prediction where the end of the text is seen last.

References:
    Chen et al., "Exploring Local Memorization in Diffusion Models via Bright Ending Attention",
    ICLR 2025, arXiv 2410.21665.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, Domain, Steps, Trajectory
from memjax.detectors.basin_exit import difference_or_refuse


def bright_ending(end_map: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns the mask of a memorized region: attention to the end of the text, of mean 1.

    Args:
        end_map: Attention of each pixel to the end-of-text token at the last step.

    .. note:: Where no pixel attends to the end, the mask is 1 everywhere.
    """
    level = jnp.mean(end_map, axis=(1, 2), keepdims=True)
    return jnp.where(level == 0, 1.0, end_map / jnp.where(level == 0, 1.0, level))


@dataclasses.dataclass(frozen=True)
class BrightEnding(Detector):
    """Magnitude under the bright-ending mask, ``‖(ε_c − ε_u) ∘ m‖₂ / mean(m)`` of each step.

    ``m`` is how much each pixel attends to the end-of-text token at the *last* step, averaged over
    heads and the first two cross-attention layers: memorized regions are bright there. Even
    attention, ``m`` constant, gives the magnitude itself.

    Attributes:
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score; the mask is that of the last step all the same.

    .. note:: Labels have no end token, and no token of theirs sums up the others: models of labels
        are refused. Maps of layers below the state's resolution are enlarged linearly.

    References:
        Chen et al., ICLR 2025, arXiv 2410.21665 (its masked detection score).
    """

    domain: ClassVar[Domain] = "trajectory"
    cost: ClassVar[str] = "no evaluations; two layers' attention a step; keeps all predictions"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond", "end_map", "images"})
    differentiable: ClassVar[bool] = False
    is_norm: ClassVar[bool] = True

    rms: bool = False
    steps: Steps | None = None

    def __call__(self, seen: Trajectory, net: Denoiser) -> Float[Array, "s b"]:
        del net
        delta = difference_or_refuse(seen)
        if seen.end_map is None:
            raise ValueError(
                "the trajectory carries no end_map, expected the attention to the text's end: let "
                "the detector ride along sample or detect."
            )
        mask = bright_ending(seen.end_map[-1])[..., None]
        return jax.vmap(lambda d: per_example_norm(d * mask, rms=self.rms))(delta)

"""At which step a trajectory leaves the basin in which its condition draws it to one image.

References:
    Jain et al., "Classifier-Free Guidance inside the Attraction Basin May Cause Memorization",
    CVPR 2025, arXiv 2411.16738.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, Domain, Steps, Trajectory


@dataclasses.dataclass(frozen=True)
class BasinExit(Detector):
    """Attraction-basin exit: share of steps before the first local minimum of ``‖ε_c − ε_u‖₂``.

    Each step is 1 before the exit and 0 from it on, so that the mean over all steps is the exit's
    position: near 0 where the trajectory is free at once, near 1 where the condition draws it to
    the end.

    Attributes:
        weighted: Each step before the exit counts its norm instead of 1.
        steps: Steps whose mean is the score.

    .. note:: The exit is the first step that is below both its neighbors. A curve without such a
        step leaves at its smallest value: at once where it only rises, at the last step where it
        only falls. Published as the step at which guidance is switched on, on trajectories without
        guidance (``guidance_scale=1``) until then; as a score it is memjax's reading. The official
        code takes one norm over the whole batch; here each example has its own. Neighboring steps
        of a smooth curve differ little: very fine grids find minima of rounding.
    .. note:: A diagnostic before it is a score: its sign is not guaranteed. On a network trained on
        drawn films it was near chance under guidance, and without guidance ordinary prompts stayed
        as long or longer.

    References:
        Jain et al., CVPR 2025, arXiv 2411.16738 (its dynamic transition point).
    """

    domain: ClassVar[Domain] = "trajectory"
    cost: ClassVar[str] = "no evaluations; keeps the predictions of all steps that are run"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    differentiable: ClassVar[bool] = False

    weighted: bool = False
    steps: Steps | None = None

    def __call__(self, seen: Trajectory, net: Denoiser) -> Float[Array, "s b"]:
        del net
        norm = jax.vmap(per_example_norm)(difference_or_refuse(seen))
        inside = jnp.arange(len(norm))[:, None] < exit_step(norm)[None]
        # A norm that is not a number is no score either.
        weights = norm if self.weighted else norm * 0.0 + 1.0
        return jnp.where(inside, weights, norm * 0.0)


def exit_step(norm: Float[Array, "s b"]) -> Int[Array, " b"]:
    """Returns the first local minimum of each curve, and the smallest value of one without."""
    if len(norm) < 3:
        return jnp.argmin(norm, axis=0)
    lowest = (norm[1:-1] < norm[:-2]) & (norm[1:-1] < norm[2:])
    return jnp.where(lowest.any(axis=0), 1 + jnp.argmax(lowest, axis=0), jnp.argmin(norm, axis=0))


def difference_or_refuse(seen: Trajectory) -> Float[Array, "s b *d"]:
    """Returns ``ε_c − ε_u`` of each step.

    Raises:
        ValueError: If the trajectory does not carry it.
    """
    if seen.delta is None:
        raise ValueError(
            "the trajectory carries no difference of predictions, expected that of each step: let "
            "the detector ride along sample or detect, with a null condition."
        )
    return seen.delta

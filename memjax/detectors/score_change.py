"""How much the conditional prediction changes over one step of the sampler.

References:
    "Early Detection of Memorization in Diffusion Models", 2026, official code only.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.process import q_sample, x0_from_eps
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import guided, refuse_outside, schedule_or_refuse


@dataclasses.dataclass(frozen=True)
class ScoreChange(Detector):
    """Change of the conditional prediction over one guided step, ``‖ε_c(x_k+1) − ε_c(x_k)‖₂``.

    A relative of sharpness that needs no derivative: a sharp density turns the score within one
    step. The step is that of DDIM, from the state's t to ``t − T/num_steps``.

    Attributes:
        guidance: Guidance scale of the step. A model without a null condition is stepped by ε_c.
        num_steps: The step is one of so many over the whole schedule.
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score; ``first`` and ``1-2`` are the published ones.

    .. note:: The official code squares the norm, which ranks alike at one step. The step is always
        DDIM's and of its own length, whatever sampler runs, so that the first step alone suffices.
        From t = 0 there is no step left and the statistic is 0.

    References:
        "Early Detection of Memorization in Diffusion Models", 2026, DSM of its official code
        (github.com/randomnameforicml/icml-2026, authors unnamed).
    """

    cost: ClassVar[str] = "1 evaluation a state"
    evals: ClassVar[int] = 1
    is_norm: ClassVar[bool] = True

    guidance: float = 7.5
    num_steps: int = 50
    rms: bool = False
    steps: Steps | None = "first"

    def __post_init__(self) -> None:
        refuse_outside(self, num_steps=(1, math.inf))

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        schedule = schedule_or_refuse(self, net)
        if self.num_steps > schedule.num_timesteps:
            raise ValueError(
                f"ScoreChange: num_steps is {self.num_steps}, expected 1 to the schedule's "
                f"{schedule.num_timesteps}."
            )
        eps = guided(state, self.guidance)
        after = jnp.maximum(state.t - schedule.num_timesteps // self.num_steps, 0)
        x0 = x0_from_eps(schedule, state.x_t, state.t, eps)
        x_after = q_sample(schedule, x0, after, eps).astype(state.x_t.dtype)
        change = net.eps(x_after, after, state.cond) - state.eps_cond
        return jnp.where(after < state.t, per_example_norm(change, rms=self.rms), 0.0)

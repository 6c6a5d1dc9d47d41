"""A measurement made ready once: any number of prompts, in batches of any size, cost one compile.

References:
    Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, §3.2.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.guidance import cache_null, null_evals
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params
from memjax.detectors.base import Steps, null_or_refuse, step_window
from memjax.detectors.noise_magnitude import first_step_magnitudes, trajectory_magnitudes
from memjax.sampling import STATIC_ARGUMENTS, timesteps

_SAMPLING = {"guidance_scale", "stepper", "set_alpha_to_one", "clip_x0", "key"}
_jit_null = partial(jax.jit, static_argnames=("eps_fn",))(cache_null)
_jit_first = partial(jax.jit, static_argnames=("eps_fn",))(first_step_magnitudes)
_jit_trajectory = partial(jax.jit, static_argnames=("stop_after", *STATIC_ARGUMENTS))(
    trajectory_magnitudes
)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is measured on each prompt; made by :func:`prepare`.

    Attributes:
        program: The jitted function.
        static: Its static arguments.
        traced: Its other arguments, the condition excepted.
        steps: Steps of the trajectory that are run.
        generations: Initial noises, shared by all prompts.
        dim: Dimensions of one state.
        null_evals: Evaluations of one unconditional prediction.
        finished: Whether the trajectory reaches its end, the picture.
    """

    program: Any
    static: Mapping[str, Any]
    traced: Mapping[str, Any]
    steps: int
    generations: int
    dim: int
    null_evals: int
    finished: bool

    def __call__(
        self, cond: Cond, compiled: Any = None
    ) -> tuple[Float[Array, "p g s"], Float[Array, "p g *d"] | None]:
        """Returns raw magnitudes and, where there is a trajectory, its last states.

        Args:
            cond: Conditions of p prompts.
            compiled: What ``trace(cond).lower().compile()`` gave, to run that program.
        """
        if compiled is None:
            out = self.program(cond=cond, **self.static, **self.traced)
        else:
            out = compiled(cond=cond, **self.traced)
        return out if isinstance(out, tuple) else (out[..., None], None)

    def trace(self, cond: Cond) -> jax.stages.Traced:
        """Returns the traced program for conditions, or their shapes."""
        return self.program.trace(cond=cond, **self.static, **self.traced)

    def forward_evals(self, prompts: int) -> int:
        """Returns the network evaluations of a whole measurement, counted per example.

        The first step's unconditional half is evaluated once for all prompts.
        """
        if self.steps == 1:
            return self.generations * (prompts + self.null_evals)
        return self.generations * prompts * (1 + self.null_evals) * self.steps


def prepare(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    steps: Steps = "all",
    num_steps: int = 50,
    spacing: str = "leading",
    steps_offset: int = 0,
    **sampling,
) -> Probe:
    """Makes a measurement ready; the first step's unconditional half is evaluated here, once.

    Args:
        eps_fn: The network.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        null_cond: The null condition; None is refused.
        schedule: The noise schedule.
        steps: ``first``, K, ``(start, stop)`` or ``all``.
        num_steps: Steps of the full trajectory.
        spacing: See :func:`memjax.sampling.timesteps`.
        steps_offset: See :func:`memjax.sampling.timesteps`.
        **sampling: Passed to :func:`memjax.sampling.sample` (guidance_scale, stepper, ...).

    Raises:
        ValueError: If there is no null condition or the window does not fit.
        TypeError: If a sampling option is unknown.

    .. note:: The official script draws new noise for each prompt and runs both halves for each;
        with shared noise a prompt costs g forwards at the first step instead of 2g, and prompts
        are compared at the same states. Norms are per example and the trajectory is the correctly
        guided one.
    """
    null_cond = null_or_refuse(null_cond)
    unknown = set(sampling) - _SAMPLING
    if unknown:
        raise TypeError(f"detect got unknown sampling options {sorted(unknown)}.")
    _, stop = step_window(steps, num_steps)
    grid = timesteps(schedule.num_timesteps, num_steps, spacing, steps_offset)
    x_T = jnp.asarray(x_T)
    shape = {
        "steps": stop,
        "generations": x_T.shape[0],
        "dim": math.prod(x_T.shape[1:]),
        "null_evals": null_evals(null_cond),
        "finished": stop == num_steps,
    }
    network = {"params": params, "x_T": x_T}
    if stop == 1:
        t = jnp.asarray(grid[0])
        at_first = jnp.broadcast_to(t, (x_T.shape[0],))
        null = _jit_null(eps_fn, params, x_T, at_first, null_cond)
        return Probe(_jit_first, {"eps_fn": eps_fn}, {**network, "t": t, "null": null}, **shape)
    static = {
        "eps_fn": eps_fn,
        "num_steps": num_steps,
        "spacing": spacing,
        "steps_offset": steps_offset,
        "stop_after": stop,
        **{name: value for name, value in sampling.items() if name in STATIC_ARGUMENTS},
    }
    traced = {name: value for name, value in sampling.items() if name not in STATIC_ARGUMENTS}
    if "guidance_scale" in traced:  # 3.0 and np.float32(3) are one program
        traced["guidance_scale"] = jnp.asarray(traced["guidance_scale"], jnp.float32)
    traced |= {**network, "null_cond": null_cond, "schedule": schedule}
    return Probe(_jit_trajectory, static, traced, **shape)

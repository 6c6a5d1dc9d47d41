"""The magnitude of the text-conditional noise prediction, ``‖ε(x_t,t,c) − ε(x_t,t,∅)‖₂``.

References:
    Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, Eq. 3.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.condition import num_rows, repeat_cond
from memjax.core.guidance import CachedNull, cache_null, predict_pair
from memjax.core.numerics import per_example_norm
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, StepInfo
from memjax.detectors.base import null_or_refuse
from memjax.sampling import sample


@dataclasses.dataclass(frozen=True)
class NoiseMagnitude:
    """``‖ε_c − ε_u‖₂`` per example as a statistic (floor-wide protocol ``Statistic``).

    Attributes:
        rms: Divide by ``√d``, so that numbers compare between image sizes.

    .. note:: The norm is per example. The official code takes one norm over the whole batch of
        generations, which grows with ``√n``.
    """

    rms: bool = False

    def __call__(
        self,
        eps_fn: EpsFn,
        params: Params,
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: Cond,
        null_cond: Cond,
    ) -> Float[Array, " b"]:
        null_cond = null_or_refuse(null_cond)
        eps_cond, eps_uncond = predict_pair(eps_fn, params, x_t, t, cond, null_cond)
        return per_example_norm(eps_cond - eps_uncond, rms=self.rms)


@dataclasses.dataclass(frozen=True)
class MagnitudeTap:
    """A tap for :func:`memjax.sampling.sample`: the raw magnitude of each step, for free."""

    def __call__(self, info: StepInfo) -> Float[Array, " b"]:
        if info.eps_uncond is None:
            raise ValueError(
                "the magnitude needs an unconditional prediction: give sample() a null_cond."
            )
        return per_example_norm(info.eps_cond - info.eps_uncond)


def first_step_magnitudes(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    t: Int[Array, ""],
    cond: Cond,
    null: Cond | CachedNull,
) -> Float[Array, "p g"]:
    """Returns ``‖ε(x_T,t,c) − ε(x_T,t,∅)‖`` for every prompt and shared initial noise.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        t: The first timestep.
        cond: Conditions of p prompts.
        null: The null condition, or its prediction at ``x_T`` from
            :func:`memjax.core.guidance.cache_null`: then each prompt costs g forwards, not 2g.
    """
    prompts, generations = num_rows(cond), x_T.shape[0]
    if not isinstance(null_or_refuse(null), CachedNull):
        null = cache_null(eps_fn, params, x_T, jnp.broadcast_to(t, (generations,)), null)
    x = jnp.tile(x_T, (prompts,) + (1,) * (x_T.ndim - 1))
    shared = CachedNull(jnp.tile(null.eps, (prompts,) + (1,) * (x_T.ndim - 1)))
    steps = jnp.broadcast_to(t, (prompts * generations,))
    rows = repeat_cond(cond, generations)
    norms = NoiseMagnitude()(eps_fn, params, x, steps, rows, shared)
    return norms.reshape(prompts, generations)


def trajectory_magnitudes(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond,
    schedule: NoiseSchedule,
    **sampling,
) -> tuple[Float[Array, "p g s"], Float[Array, "p g *d"]]:
    """Returns per-step magnitudes along the guided trajectory, and the final states.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        cond: Conditions of p prompts.
        null_cond: The null condition.
        schedule: The noise schedule.
        **sampling: Passed to :func:`memjax.sampling.sample`.
    """
    prompts, generations = num_rows(cond), x_T.shape[0]
    x = jnp.tile(x_T, (prompts,) + (1,) * (x_T.ndim - 1))
    rows = repeat_cond(cond, generations)
    end, taps = sample(eps_fn, params, x, rows, null_cond, schedule, tap=MagnitudeTap(), **sampling)
    per_step = taps.reshape(-1, prompts, generations).transpose(1, 2, 0)
    return per_step, end.reshape(prompts, generations, *x_T.shape[1:])

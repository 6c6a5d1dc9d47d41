"""The magnitude of the text-conditional noise prediction, ``‖ε(x_t,t,c) − ε(x_t,t,∅)‖₂``.

References:
    Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, Eq. 3.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.condition import num_rows, repeat_cond, take_rows
from memjax.core.guidance import CachedNull, cache_null, null_evals, predict_pair
from memjax.core.numerics import per_example_norm
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, StepInfo
from memjax.detectors.base import Detection, Steps, null_or_refuse, step_window
from memjax.sampling import sample, timesteps


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


_STATIC = (
    "eps_fn",
    "num_steps",
    "stop_after",
    "stepper",
    "spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_x0",
)
_SAMPLING = {"guidance_scale", "stepper", "set_alpha_to_one", "clip_x0", "key"}
_jit_null = partial(jax.jit, static_argnames=("eps_fn",))(cache_null)
_jit_first = partial(jax.jit, static_argnames=("eps_fn",))(first_step_magnitudes)
_jit_trajectory = partial(jax.jit, static_argnames=_STATIC)(trajectory_magnitudes)


def detect(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    steps: Steps = "all",
    num_steps: int = 50,
    spacing: str = "leading",
    steps_offset: int = 0,
    chunk: int = 16,
    progress: Callable[[int, int], None] | None = None,
    **sampling,
) -> Detection:
    """Measures many prompts with shared initial noise, in chunks of one static shape.

    ``steps='first'`` needs one forward a prompt and generation (the unconditional half is computed
    once for all prompts) and makes no image; K runs the first K steps of the trajectory; ``all``
    runs it to the end, so that images and every (n, first-k, all-steps) ablation come from one run.

    Args:
        eps_fn: The network.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        cond: Conditions of p prompts.
        null_cond: The null condition; None is refused.
        schedule: The noise schedule.
        steps: ``first``, K, ``(start, stop)`` or ``all``.
        num_steps: Steps of the full trajectory.
        spacing: See :func:`memjax.sampling.timesteps`.
        steps_offset: See :func:`memjax.sampling.timesteps`.
        chunk: Prompts a call; the last chunk is padded.
        progress: Called with (prompts done, prompts in all).
        **sampling: Passed to :func:`memjax.sampling.sample` (guidance_scale, stepper, ...).

    Returns:
        Raw magnitudes ``[prompt, generation, step]`` with images where the end was reached.

    Raises:
        ValueError: If there is no null condition or the window does not fit.
    """
    null_cond = null_or_refuse(null_cond)
    unknown = set(sampling) - _SAMPLING
    if unknown:
        raise TypeError(f"detect got unknown sampling options {sorted(unknown)}.")
    _, stop = step_window(steps, num_steps)
    prompts, generations, dim = num_rows(cond), x_T.shape[0], math.prod(x_T.shape[1:])
    chunk = min(chunk, prompts)
    grid: dict[str, Any] = {
        "num_steps": num_steps,
        "spacing": spacing,
        "steps_offset": steps_offset,
    }
    if stop == 1:
        t = jnp.asarray(timesteps(schedule.num_timesteps, **grid)[0])
        null = _jit_null(eps_fn, params, x_T, jnp.broadcast_to(t, (generations,)), null_cond)

        def run(rows):
            return _jit_first(eps_fn, params, x_T, t, rows, null)[..., None], None
    else:

        def run(rows):
            return _jit_trajectory(
                eps_fn, params, x_T, rows, null_cond, schedule, stop_after=stop, **grid, **sampling
            )

    norms, images = [], []
    for start in range(0, prompts, chunk):
        real = min(chunk, prompts - start)
        rows = take_rows(cond, np.arange(start, start + chunk).clip(max=prompts - 1))
        per_step, end = run(rows)
        norms.append(np.asarray(per_step)[:real])
        if end is not None and stop == num_steps:
            images.append(np.asarray(end)[:real])
        if progress is not None:
            progress(start + real, prompts)
    halves = null_evals(null_cond)
    evals = generations * (prompts + halves if stop == 1 else prompts * (1 + halves) * stop)
    return Detection(np.concatenate(norms), np.concatenate(images) if images else None, evals, dim)

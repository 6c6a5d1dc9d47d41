"""States along a trajectory, with the unconditional half computed once: where to differentiate."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.condition import num_rows, repeat_cond
from memjax.core.guidance import cache_null, null_or_refuse
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, StepInfo
from memjax.sampling.loop import sample


class States(NamedTuple):
    """m states a prompt, with their unconditional half cached.

    Attributes:
        x_t: The states.
        t: Their timesteps.
        null: ``ε(x_t, t, ∅)``.
    """

    x_t: Float[Array, "p m *d"]
    t: Int[Array, "p m"]
    null: Float[Array, "p m *d"]


def _states_tap(info: StepInfo):
    """Keeps what a gradient at this step needs."""
    return info.x_t, info.t, info.eps_uncond


def first_step_states(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    t: Int[Array, ""],
    cond: Cond,
    null_cond: Cond,
    *,
    own_noise: bool = False,
) -> States:
    """Returns the paper's setting: the initial noise at the first timestep, for every prompt.

    The unconditional half is computed once for all prompts that share noise; with ``own_noise``
    (static) ``x_T`` is ``[p, g, *d]``.

    Raises:
        ValueError: If there is no null condition.
    """
    null_cond = null_or_refuse(null_cond)
    prompts, generations = num_rows(cond), x_T.shape[int(own_noise)]
    if own_noise:
        flat = x_T.reshape(-1, *x_T.shape[2:])
        each = jnp.broadcast_to(t, (len(flat),))
        null = cache_null(eps_fn, params, flat, each, null_cond).eps
        return States(x_T, each.reshape(prompts, generations), null.reshape(x_T.shape))
    steps = jnp.broadcast_to(t, (generations,))
    null = cache_null(eps_fn, params, x_T, steps, null_cond).eps
    spread = partial(jnp.broadcast_to, shape=(prompts, *x_T.shape))
    return States(spread(x_T), jnp.broadcast_to(steps, (prompts, generations)), spread(null))


def collect_states(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond,
    schedule: NoiseSchedule,
    *,
    steps: tuple[int, ...],
    num_steps: int = 50,
    own_noise: bool = False,
    **sampling,
) -> States:
    """Samples once and keeps the states at the given step indices, with their ε_u.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        cond: Conditions of p prompts.
        null_cond: The null condition.
        schedule: The noise schedule.
        steps: Step indices in [0, num_steps); static.
        num_steps: Steps of the trajectory; static.
        own_noise: Whether ``x_T`` is each prompt's own, ``[p, g, *d]``; static.
        **sampling: Passed to :func:`memjax.sampling.sample`.

    Raises:
        ValueError: If there is no null condition or a step index is out of range.
    """
    null_cond = null_or_refuse(null_cond)
    if not steps or min(steps) < 0 or max(steps) >= num_steps:
        raise ValueError(f"steps={steps}: expected step indices between 0 and {num_steps - 1}.")
    prompts, generations = num_rows(cond), x_T.shape[int(own_noise)]
    shape = x_T.shape[1 + own_noise :]
    x = x_T.reshape(-1, *shape) if own_noise else jnp.tile(x_T, (prompts,) + (1,) * len(shape))
    taps = sample(
        eps_fn,
        params,
        x,
        repeat_cond(cond, generations),
        null_cond,
        schedule,
        num_steps=num_steps,
        stop_after=max(steps) + 1,
        tap=_states_tap,
        **sampling,
    ).taps
    x_t, t, null = jax.tree.map(lambda a: a[np.asarray(steps)], taps)

    def per_prompt(a):
        a = a.reshape(len(steps), prompts, generations, *shape)
        return jnp.swapaxes(a, 0, 1).reshape(prompts, -1, *shape)

    t = jnp.broadcast_to(jnp.repeat(t, generations), (prompts, len(steps) * generations))
    return States(per_prompt(x_t), t, per_prompt(null))

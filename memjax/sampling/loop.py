"""The sampling loop: one ``lax.scan``, with guidance and taps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from memjax.core.guidance import CachedNull, guide, predict_pair
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, StepInfo, Tap
from memjax.sampling.steppers import DDIM, GridStep, Stepper, make_grid, timesteps

# The arguments that decide the program and must be static under jit; no other one recompiles it.
STATIC_ARGUMENTS = (
    "eps_fn",
    "num_steps",
    "stepper",
    "spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_x0",
)


class Sample(NamedTuple):
    """A trajectory's end and what the tap saw on the way.

    Attributes:
        x: The final state; the clean image when all steps were run.
        taps: What the tap returned, stacked over steps (leading axis ``steps``), or None.
    """

    x: Float[Array, "b *d"]
    taps: PyTree


def _denoise(eps_fn, params, x_t, t, cond, null_cond, scale):
    """Returns ``(ε_c, ε_u or None, ε used)``."""
    if null_cond is None:
        eps = eps_fn(params, x_t, t, cond)
        return eps, None, eps
    eps_cond, eps_uncond = predict_pair(eps_fn, params, x_t, t, cond, null_cond)
    return eps_cond, eps_uncond, guide(eps_uncond, eps_cond, scale)


def _estimate_x0(grid: GridStep, x_t, eps, clip_x0: float | None):
    """Returns ``(x0, ε)``; after clipping, ε is the noise that is consistent with x0."""
    x0 = (x_t - grid.sigma * eps) / grid.signal
    if clip_x0 is None:
        return x0, eps
    x0 = jnp.clip(x0, -clip_x0, clip_x0)
    return x0, (x_t - grid.signal * x0) / grid.sigma


def sample(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "b *d"],
    cond: Cond,
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    guidance_scale: Float[Array, " steps"] | Float[Array, ""] | float = 1.0,
    num_steps: int = 50,
    stop_after: int | None = None,
    stepper: Stepper | None = None,
    spacing: str = "leading",
    steps_offset: int = 0,
    set_alpha_to_one: bool = True,
    clip_x0: float | None = None,
    key: Array | None = None,
    tap: Tap | None = None,
) -> Sample:
    """Runs the reverse process from ``x_T`` with classifier-free guidance.

    A tap is given what guidance has computed anyway, so a per-step statistic costs no forward pass;
    a magnitude or the states can be tapped without changing a bit of the images.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noise.
        cond: The condition, batch b.
        null_cond: The unconditional condition (batch 1 or b), or None to sample from ε_c alone.
        schedule: The schedule the network was trained with.
        guidance_scale: s of ``ε_u + s (ε_c − ε_u)``: one number, or one a step. Ignored where
            ``null_cond`` is None.
        num_steps: Steps of the grid; static.
        stop_after: Run only the first so many steps of that grid (for detection); static.
        stepper: Static; default :class:`DDIM`.
        spacing: See :func:`memjax.sampling.timesteps`.
        steps_offset: See :func:`memjax.sampling.timesteps`.
        set_alpha_to_one: See :func:`memjax.sampling.steppers.make_grid`.
        clip_x0: Clip the estimate of x0 to ``[−clip_x0, clip_x0]`` at each step and use the noise
            consistent with it. For pixel models; static.
        key: Typed PRNG key; only the DDPM stepper needs it.
        tap: ``StepInfo → pytree``; static.

    Returns:
        The final state and the tap's outputs with a leading step axis.

    Raises:
        ValueError: If ``stop_after`` is not in [1, num_steps], or the null prediction is cached
            (it holds at one state only).

    .. note:: With ``clip_x0`` the noise is recomputed from the clipped x0, so that state, noise and
        x0 stay consistent; diffusers' DDIM keeps the network's ε by default.
    """
    stepper = DDIM() if stepper is None else stepper
    last = num_steps if stop_after is None else stop_after
    if not 1 <= last <= num_steps:
        raise ValueError(
            f"stop_after is {stop_after}, expected between 1 and num_steps={num_steps}."
        )
    if isinstance(null_cond, CachedNull) and last > 1:
        raise ValueError(
            "null_cond is a prediction cached at one state, expected the null condition: a "
            "trajectory needs a new unconditional prediction at every step."
        )
    steps = timesteps(schedule.num_timesteps, num_steps, spacing, steps_offset)
    grid = make_grid(schedule, steps, set_alpha_to_one=set_alpha_to_one)
    scales = jnp.broadcast_to(jnp.asarray(guidance_scale, jnp.float32), (num_steps,))
    inputs = jax.tree.map(lambda a: a[:last], (jnp.arange(num_steps), grid, scales))

    def body(carry, step):
        x_t, memory = carry
        index, at, scale = step
        t = jnp.broadcast_to(at.t, (x_t.shape[0],))
        eps_cond, eps_uncond, eps = _denoise(eps_fn, params, x_t, t, cond, null_cond, scale)
        x0, eps = _estimate_x0(at, x_t, eps, clip_x0)
        step_key = None if key is None else jax.random.fold_in(key, index)
        memory, x_next = stepper.step(memory, at, x_t, eps, x0, step_key)
        info = StepInfo(index, at.t, x_t, eps_cond, eps_uncond, eps, x0)
        return (x_next, memory), None if tap is None else tap(info)

    (x, _), taps = jax.lax.scan(body, (x_T, stepper.init(x_T)), inputs)
    return Sample(x, taps)

"""The sampling loop: one ``lax.scan``, with guidance and taps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from memjax.core.denoiser import Denoiser, needs_of
from memjax.core.guidance import CachedNull, ClassifierFree, null_or_refuse
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import (
    Array,
    Cond,
    Detector,
    EpsFn,
    Guidance,
    GuidanceStep,
    Params,
    State,
    StepInfo,
    Steps,
    Tap,
    Trajectory,
)
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


def step_window(steps: Steps | None, num_steps: int) -> tuple[int, int]:
    """Resolves a window of steps to half-open step indices.

    ``first``, ``all`` (also None), ``half`` (the first half), K (the first K), ``last``,
    ``last-K``, ``A-B`` or ``(A, B)``: steps A up to, but not including, B.

    Raises:
        ValueError: If the window is empty or does not fit into ``num_steps``.
    """
    text = str(steps)
    head, dash, tail = text.partition("-")
    if steps is None or steps == "all":
        window = (0, num_steps)
    elif steps == "first":
        window = (0, 1)
    elif steps == "half":
        window = (0, max(1, num_steps // 2))
    elif isinstance(steps, tuple) and len(steps) == 2:
        window = (int(steps[0]), int(steps[1]))
    elif isinstance(steps, int) or text.isdecimal():
        window = (0, int(text))
    elif head == "last" and (not dash or tail.isdecimal()):
        window = (num_steps - int(tail or 1), num_steps)
    elif head.isdecimal() and tail.isdecimal():
        window = (int(head), int(tail))
    else:
        raise ValueError(
            f"steps is {steps!r}, expected 'first', 'half', 'all', 'last', a number K, 'last-K' or "
            "'A-B'."
        )
    if not 0 <= window[0] < window[1] <= num_steps:
        raise ValueError(
            f"steps={steps!r} is the window {window}, expected a non-empty one within "
            f"0..{num_steps}: sample more steps or choose fewer."
        )
    return window


def at_state(
    detector: Detector,
    state: State,
    net: Denoiser,
    index: Array | None = None,
    num_steps: int = 1,
) -> Float[Array, " b"]:
    """Returns a statistic at one state of a trajectory.

    Args:
        detector: With ``domain="state"``.
        state: The state.
        net: The network.
        index: The step it was met at. A detector that evaluates the network again does so within
            its window of steps only and is NaN outside.
        num_steps: Steps that are run.
    """
    if index is None or not detector.evals:
        return detector(state, net)
    start, stop = step_window(detector.steps, num_steps)
    if (start, stop) == (0, num_steps):
        return detector(state, net)
    shape = jax.eval_shape(detector, state, net)
    return jax.lax.cond(
        (index >= start) & (index < stop),
        lambda: detector(state, net),
        lambda: jnp.full(shape.shape, jnp.nan, shape.dtype),
    )


class _Taps(NamedTuple):
    """What rides along: one function of a step, or detectors by name."""

    function: Tap | None
    states: Mapping[str, Detector]
    trajectories: Mapping[str, Detector]

    @property
    def maps(self) -> bool:
        return "maps" in needs_of([*self.states.values(), *self.trajectories.values()])

    @property
    def end_map(self) -> bool:
        return "end_map" in needs_of([*self.states.values(), *self.trajectories.values()])

    @property
    def delta(self) -> bool:
        return "eps_uncond" in needs_of(self.trajectories.values())


def _taps(tap: Tap | Mapping[str, Detector] | None) -> _Taps:
    if not isinstance(tap, Mapping):
        return _Taps(tap, {}, {})
    for name, detector in tap.items():
        if detector.domain not in ("state", "trajectory"):
            raise ValueError(
                f"{name} looks at {detector.domain}, expected a statistic of states or of the "
                "trajectory: it cannot ride along sampling."
            )
    of = {
        domain: {name: d for name, d in tap.items() if d.domain == domain}
        for domain in ("state", "trajectory")
    }
    return _Taps(None, of["state"], of["trajectory"])


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
    guidance: Guidance | None = None,
    num_steps: int = 50,
    stop_after: int | None = None,
    stepper: Stepper | None = None,
    spacing: str = "leading",
    steps_offset: int = 0,
    set_alpha_to_one: bool = True,
    clip_x0: float | None = None,
    key: Array | None = None,
    tap: Tap | Mapping[str, Detector] | None = None,
) -> Sample:
    """Runs the reverse process from ``x_T`` with classifier-free guidance.

    A tap is given what guidance has computed anyway, so a per-step statistic costs no forward pass;
    any number of detectors ride on one trajectory without changing a bit of the images.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noise.
        cond: The condition, batch b.
        null_cond: The unconditional condition (batch 1 or b), or None to sample from ε_c alone.
        schedule: The schedule the network was trained with.
        guidance_scale: s of ``ε_u + s (ε_c − ε_u)``: one number, or one a step. Ignored where
            ``null_cond`` is None.
        guidance: Another rule than :class:`~memjax.core.guidance.ClassifierFree` with that scale.
        num_steps: Steps of the grid; static.
        stop_after: Run only the first so many steps of that grid (for detection); static.
        stepper: Static; default :class:`DDIM`.
        spacing: See :func:`memjax.sampling.timesteps`.
        steps_offset: See :func:`memjax.sampling.timesteps`.
        set_alpha_to_one: See :func:`memjax.sampling.steppers.make_grid`.
        clip_x0: Clip the estimate of x0 to ``[−clip_x0, clip_x0]`` at each step and use the noise
            consistent with it. For pixel models; static.
        key: Typed PRNG key; only the DDPM stepper needs it.
        tap: ``StepInfo → pytree``, or name → detector of states or trajectories; static.

    Returns:
        The final state and the tap's outputs with a leading step axis: a pytree, or name →
        ``[step, b]``.

    Raises:
        ValueError: If ``stop_after`` is not in [1, num_steps], the null prediction is cached (it
            holds at one state only), a detector needs what is not there, or ``guidance`` is given
            without a null condition.

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
    if guidance is not None and null_cond is None:
        raise ValueError(
            f"guidance={type(guidance).__name__} was given without a null condition: give "
            "null_cond, or leave guidance out."
        )
    net, taps = Denoiser(eps_fn, params, null_cond, schedule), _taps(tap)
    if taps.delta:
        null_or_refuse(null_cond)
    guidance = ClassifierFree(guidance_scale) if guidance is None else guidance
    steps = timesteps(schedule.num_timesteps, num_steps, spacing, steps_offset)
    grid = make_grid(schedule, steps, set_alpha_to_one=set_alpha_to_one)
    inputs = jax.tree.map(lambda a: a[:last], (jnp.arange(num_steps), grid))

    def body(carry, step):
        x_t, memory, guided = carry
        index, at = step
        t = jnp.broadcast_to(at.t, (x_t.shape[0],))
        state = net.at(x_t, t, cond, maps=taps.maps, end_map=taps.end_map)
        eps = state.eps_cond
        if state.eps_uncond is not None:
            told = GuidanceStep(index, num_steps, at.t, x_t)
            guided, eps = guidance(guided, told, state.eps_cond, state.eps_uncond)
        x0, eps = _estimate_x0(at, x_t, eps, clip_x0)
        step_key = None if key is None else jax.random.fold_in(key, index)
        memory, x_next = stepper.step(memory, at, x_t, eps, x0, step_key)
        info = StepInfo(index, at.t, x_t, state.eps_cond, state.eps_uncond, eps, x0)
        seen = None if taps.function is None else taps.function(info)
        values = {
            name: at_state(detector, state, net, index, last)
            for name, detector in taps.states.items()
        }
        delta = state.eps_cond - state.eps_uncond if taps.delta else None
        kept = (x_t, state.maps, delta, state.end_map) if taps.trajectories else None
        return (x_next, memory, guided), (seen, values, kept)

    start = (x_T, stepper.init(x_T), guidance.init(x_T) if null_cond is not None else ())
    (x, _, _), (seen, values, kept) = jax.lax.scan(body, start, inputs)
    if not isinstance(tap, Mapping):
        return Sample(x, seen)
    return Sample(x, values | _whole(taps.trajectories, kept, x, inputs[1], cond, net))


def _whole(
    detectors: Mapping[str, Detector],
    kept: Any,
    x_end: Array,
    grid: GridStep,
    cond: Cond,
    net: Denoiser,
) -> dict[str, Float[Array, "s b"]]:
    """Returns the statistics of the trajectory as a whole."""
    if not detectors:
        return {}
    x_t, maps, delta, end_map = kept
    seen = Trajectory(x_t, x_end, grid.t, grid.signal, grid.sigma, maps, cond, delta, end_map)
    return {name: detector(seen, net) for name, detector in detectors.items()}

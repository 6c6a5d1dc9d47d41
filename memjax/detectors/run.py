"""Detectors on many prompts: a measurement made ready once, run in chunks of one static shape.

Any number of prompts, in batches of any size, cost one compile; all detectors ride on one
trajectory.

References:
    Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, §3.2 (a trajectory, or its first step alone).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from memjax.core.condition import chunk_numbers, num_rows, repeat_cond, take_rows
from memjax.core.denoiser import Denoiser, needs_of, refuse_without_end_map, refuse_without_maps
from memjax.core.guidance import CachedNull, cache_null, null_evals
from memjax.core.mesh import place, replicated, row_shards, rows_over
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Detector, EpsFn, Params, Steps
from memjax.detectors.base import Detection, null_or_refuse, step_window
from memjax.detectors.noise_magnitude import NoiseMagnitude
from memjax.sampling import STATIC_ARGUMENTS, at_state, sample, timesteps

_SAMPLING = {"guidance_scale", "guidance", "stepper", "set_alpha_to_one", "clip_x0", "key"}
DEFAULT_DETECTORS: Mapping[str, Detector] = {"noise_magnitude": NoiseMagnitude()}
Named = tuple[tuple[str, Detector], ...]  # hashable, for static arguments
Decode = Callable[[Any], Any]


def first_step_statistics(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"] | Float[Array, "p g *d"],
    t: Int[Array, ""],
    cond: Cond,
    null: Cond | CachedNull | None,
    *,
    detectors: Named,
    null_cond: Cond | None = None,
    schedule: NoiseSchedule | None = None,
    own_noise: bool = False,
) -> dict[str, Float[Array, "p g"]]:
    """Returns statistics of the initial noise, for every prompt.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noises: shared by all prompts, or each prompt's own.
        t: The first timestep.
        cond: Conditions of p prompts.
        null: The null condition, or its prediction at shared noise from
            :func:`memjax.core.guidance.cache_null`: then each prompt costs g forwards, not 2g.
        detectors: Name and detector of states; static.
        null_cond: The null condition, for detectors that evaluate the network again.
        schedule: The noise schedule, for detectors of the score.
        own_noise: Whether each prompt has noise of its own; static.
    """
    prompts, rows = _noises(x_T, cond, own_noise)
    generations = len(rows) // prompts
    cached = None
    if isinstance(null, CachedNull):
        cached = CachedNull(jnp.tile(null.eps, (prompts,) + (1,) * (rows.ndim - 1)))
    net = Denoiser(eps_fn, params, null if null_cond is None else null_cond, schedule)
    state = net.at(
        rows,
        jnp.broadcast_to(t, (len(rows),)),
        repeat_cond(cond, generations),
        cached=cached,
        maps="maps" in needs_of(d for _, d in detectors),
        end_map="end_map" in needs_of(d for _, d in detectors),
    )
    found = {name: at_state(detector, state, net) for name, detector in detectors}
    return {name: value.reshape(prompts, generations) for name, value in found.items()}


def trajectory_statistics(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"] | Float[Array, "p g *d"],
    cond: Cond,
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    detectors: Named,
    own_noise: bool = False,
    **sampling,
) -> tuple[dict[str, Float[Array, "p g s"]], Float[Array, "p g *d"]]:
    """Returns statistics along the guided trajectory, and the final states.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_T: Initial noises: shared by all prompts, or each prompt's own.
        cond: Conditions of p prompts.
        null_cond: The null condition; None samples from ε_c alone.
        schedule: The noise schedule.
        detectors: Name and detector; static.
        own_noise: Whether each prompt has noise of its own; static.
        **sampling: Passed to :func:`memjax.sampling.sample`.
    """
    prompts, x = _noises(x_T, cond, own_noise)
    generations = len(x) // prompts
    rows = repeat_cond(cond, generations)
    end, taps = sample(
        eps_fn, params, x, rows, null_cond, schedule, tap=dict(detectors), **sampling
    )
    found = {
        name: value.reshape(-1, prompts, generations).transpose(1, 2, 0)
        for name, value in taps.items()
    }
    return found, end.reshape(prompts, generations, *x.shape[1:])


def _noises(x_T: Array, cond: Cond, own_noise: bool) -> tuple[int, Float[Array, "r *d"]]:
    """Returns how many prompts there are, and one noise a prompt and generation."""
    prompts = num_rows(cond)
    if own_noise:
        return prompts, x_T.reshape(-1, *x_T.shape[2:])
    return prompts, jnp.tile(x_T, (prompts,) + (1,) * (x_T.ndim - 1))


def images_statistic(
    detector: Detector, images: Float[Array, "p g h w c"], shape: tuple[int, int, int]
) -> Float[Array, "p g s"]:
    """Returns a statistic of finished images at the last of the steps, NaN at the others."""
    value = detector(images.astype(jnp.float32).clip(-1.0, 1.0), None)
    return jnp.full(shape, jnp.nan).at[..., -1].set(value[:, None])


_jit_images = jax.jit(images_statistic, static_argnums=(0, 2))
_jit_null = partial(jax.jit, static_argnames=("eps_fn",))(cache_null)
_jit_first = partial(jax.jit, static_argnames=("eps_fn", "detectors", "own_noise"))(
    first_step_statistics
)
_jit_trajectory = partial(
    jax.jit, static_argnames=("stop_after", "detectors", "own_noise", *STATIC_ARGUMENTS)
)(trajectory_statistics)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is measured on each prompt; made by :func:`prepare`.

    Attributes:
        program: The jitted function.
        static: Its static arguments.
        traced: Its other arguments, the condition excepted.
        detectors: Name and detector.
        steps: Steps of the trajectory that are run.
        generations: Noises of a prompt.
        dim: Dimensions of one state.
        null_evals: Evaluations of one unconditional prediction; 0 without a null condition.
        finished: Whether the trajectory reaches its end, the image.
        own_noise: Whether each prompt has noise of its own; rows are then ``(cond, x_T)``.
        decode: Final states → images in [-1, 1], for detectors of images.
    """

    program: Any
    static: Mapping[str, Any]
    traced: Mapping[str, Any]
    detectors: Named
    steps: int
    generations: int
    dim: int
    null_evals: int
    finished: bool
    own_noise: bool = False
    decode: Decode | None = None

    def __call__(
        self, cond: Any, compiled: Any = None
    ) -> tuple[dict[str, Float[Array, "p g s"]], Float[Array, "p g *d"] | None]:
        """Returns raw statistics and, where there is a trajectory, its last states.

        Args:
            cond: Conditions of p prompts, with their noise where it is their own.
            compiled: What ``trace(cond).lower().compile()`` gave, to run that program.
        """
        rows = self._rows(cond)
        if compiled is None:
            out = self.program(**rows, **self.static, **self.traced)
        else:
            out = compiled(**rows, **self.traced)
        found, end = out if isinstance(out, tuple) else (out, None)
        found = found | self._of_images(end)
        values = {name: found[name] for name, _ in self.detectors}  # jit gives them by name
        return {n: v if end is not None else v[..., None] for n, v in values.items()}, end

    def _of_images(self, end: Any) -> dict[str, Float[Array, "p g s"]]:
        """Returns the statistics of finished images: at the last step, alike for all noises."""
        detectors = [(name, d) for name, d in self.detectors if d.domain == "images"]
        if not detectors:
            return {}
        images = end
        if self.decode is not None:  # a prompt at a time: images may be far larger than states
            images = jnp.stack([jnp.asarray(self.decode(of_prompt)) for of_prompt in end])
        shape = (*end.shape[:2], self.steps)
        return {name: _jit_images(d, images, shape) for name, d in detectors}

    def _rows(self, cond: Any) -> dict[str, Any]:
        return {"cond": cond[0], "x_T": cond[1]} if self.own_noise else {"cond": cond}

    def trace(self, cond: Any) -> jax.stages.Traced:
        """Returns the traced program for rows, or their shapes."""
        return self.program.trace(**self._rows(cond), **self.static, **self.traced)

    @property
    def windows(self) -> dict[str, Steps | None]:
        """Each detector's own window."""
        return {name: detector.steps for name, detector in self.detectors}

    def forward_evals(self, prompts: int) -> int:
        """Returns the network evaluations of a whole measurement, counted per example.

        The first step's unconditional half is evaluated once for all prompts that share noise.
        """
        states = self.generations * prompts
        if self.program is _jit_first:
            guided = states + self.null_evals * (states if self.own_noise else self.generations)
        else:
            guided = states * (1 + self.null_evals) * self.steps
        return guided + states * sum(
            (detector.evals + detector.null_evals * (self.null_evals - 1)) * (stop - start)
            for _, detector in self.detectors
            if detector.evals
            for start, stop in [step_window(detector.steps, self.steps)]
        )


def steps_needed(detectors: Mapping[str, Detector], num_steps: int) -> int:
    """Returns how many steps of a trajectory some detectors look at."""
    return max(_needs_steps(detector, num_steps) for detector in detectors.values())


def _needs_steps(detector: Detector, num_steps: int) -> int:
    steps = detector.steps
    relative = isinstance(steps, str) and steps.startswith(("half", "last"))  # to what is run
    if relative or "images" in detector.needs:
        return num_steps
    return step_window(steps, num_steps)[1]


def prepare(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    detectors: Mapping[str, Detector] = DEFAULT_DETECTORS,
    steps: Steps = "all",
    num_steps: int = 50,
    spacing: str = "leading",
    steps_offset: int = 0,
    own_noise: bool = False,
    decode: Decode | None = None,
    **sampling,
) -> Probe:
    """Makes a measurement ready; the first step's unconditional half is evaluated here, once.

    Args:
        eps_fn: The network.
        params: Its weights.
        x_T: Initial noises, shared by all prompts; with ``own_noise`` only its shape
            ``[g, *d]`` counts.
        null_cond: The null condition; None is refused where a detector needs ε_∅.
        schedule: The noise schedule.
        detectors: What rides along, by name; none of them just makes the images.
        steps: How far the trajectory runs: ``first``, K, ``(start, stop)`` or ``all``.
        num_steps: Steps of the full trajectory.
        spacing: See :func:`memjax.sampling.timesteps`.
        steps_offset: See :func:`memjax.sampling.timesteps`.
        own_noise: Each prompt brings noise of its own: rows are ``(cond, x_T [p, g, *d])``.
        decode: Final states → images in [-1, 1], such as ``Bundle.decode``, for detectors of
            images; None: states are images.
        **sampling: Passed to :func:`memjax.sampling.sample` (guidance_scale, stepper, ...).

    Raises:
        ValueError: If there is no null condition, a window does not fit, or a detector needs what
            is not there.
        TypeError: If a sampling option is unknown.

    .. note:: The official script draws new noise for each prompt and runs both halves for each;
        with shared noise a prompt costs g forwards at the first step instead of 2g, and prompts
        are compared at the same states. Norms are per example and the trajectory is the correctly
        guided one.
    """
    unknown = set(sampling) - _SAMPLING
    if unknown:
        raise TypeError(f"detect got unknown sampling options {sorted(unknown)}.")
    named = tuple(detectors.items())
    _, stop = step_window(steps, num_steps)
    riding = tuple((name, d) for name, d in named if d.domain != "images")
    _check_needs(named, eps_fn, null_cond, stop, num_steps)
    _check_images(named, np.shape(x_T))
    grid = timesteps(schedule.num_timesteps, num_steps, spacing, steps_offset)
    x_T = jnp.asarray(x_T)
    shape = {
        "detectors": named,
        "steps": stop,
        "generations": x_T.shape[0],
        "dim": math.prod(x_T.shape[1:]),
        "null_evals": 0 if null_cond is None else null_evals(null_cond),
        "finished": stop == num_steps,
        "own_noise": own_noise,
        "decode": decode,
    }
    network = {"params": params} if own_noise else {"params": params, "x_T": x_T}
    static = {"eps_fn": eps_fn, "detectors": riding, "own_noise": own_noise}
    if stop == 1 and named and all(d.domain == "state" for _, d in named):
        t, null = jnp.asarray(grid[0]), null_cond
        if null_cond is not None and not own_noise:
            at_first = jnp.broadcast_to(t, (x_T.shape[0],))
            null = _jit_null(eps_fn, params, x_T, at_first, null_cond)
        traced = {**network, "t": t, "null": null, "schedule": schedule}
        if any(d.evals for _, d in named):
            traced["null_cond"] = null_cond
        return Probe(_jit_first, static, traced, **shape)
    static |= {
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


def _check_needs(named: Named, eps_fn: EpsFn, null_cond: Any, stop: int, num_steps: int) -> None:
    """Refuses detectors that cannot be served, before anything is compiled."""
    for name, detector in named:
        if detector.domain not in ("state", "trajectory", "images"):
            raise ValueError(
                f"{name} looks at {detector.domain}, expected a statistic of states, of the "
                "trajectory or of finished images: it is not one of prompts."
            )
        if "eps_uncond" in detector.needs:
            _refuse_by_name(name, lambda: null_or_refuse(null_cond))
        if "maps" in detector.needs:
            refuse_without_maps(eps_fn)
        if "end_map" in detector.needs:
            _refuse_by_name(name, lambda: refuse_without_end_map(eps_fn, null_cond))
        if "images" in detector.needs and stop < num_steps:
            raise ValueError(
                f"{name} needs the finished image, and {stop} of {num_steps} steps are run: run "
                "all of them (steps='all')."
            )
        step_window(detector.steps, stop)


def _check_images(named: Named, shape: tuple[int, ...]) -> None:
    """Refuses detectors of a prompt's images where there is one image, or none."""
    for name, detector in named:
        if detector.domain == "images" and (shape[0] < 2 or len(shape) != 4):
            raise ValueError(
                f"{name} compares the images of a prompt, and its noises have the shape "
                f"{tuple(shape)}, expected [generations, height, width, channels] with 2 "
                "generations or more: make more images a prompt."
            )


def _refuse_by_name(name: str, check: Callable[[], Any]) -> None:
    """Lets a check refuse a detector, by its name."""
    try:
        check()
    except ValueError as refused:
        raise ValueError(f"{name}: {refused}") from None


def detect(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"] | Float[Array, "p g *d"],
    cond: Cond,
    null_cond: Cond | None,
    schedule: NoiseSchedule,
    *,
    detectors: Mapping[str, Detector] = DEFAULT_DETECTORS,
    steps: Steps = "all",
    chunk: int = 16,
    own_noise: bool = False,
    decode: Decode | None = None,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    **sampling,
) -> Detection:
    """Measures many prompts in chunks of one static shape; all detectors ride on one trajectory.

    ``steps='first'`` needs one forward a prompt and generation (the unconditional half is computed
    once for all prompts) and makes no image; K runs the first K steps of the trajectory; ``all``
    runs it to the end, so that images and every (n, first-k, all-steps) ablation come from one run.

    Args:
        eps_fn: The network.
        params: Its weights.
        x_T: Initial noises, shared by all prompts; or each prompt's own, with ``own_noise``.
        cond: Conditions of p prompts.
        null_cond: The null condition; None is refused where a detector needs ε_∅.
        schedule: The noise schedule.
        detectors: Name → detector, such as ``DETECTORS.parse_all(["noise_magnitude"])``.
        steps: ``first``, K, ``(start, stop)`` or ``all``.
        chunk: Prompts a call; the last chunk is padded.
        own_noise: ``x_T`` is ``[p, g, *d]``.
        decode: See :func:`memjax.detectors.prepare`.
        progress: Called with (prompts done, prompts in all).
        mesh: Devices of this process over which the prompts of a chunk are spread (see
            :func:`memjax.core.mesh.make_mesh`); the chunk is rounded up to a multiple of them.
        **sampling: Grid and sampling options, see :func:`memjax.detectors.prepare`.

    Returns:
        Raw statistics ``[prompt, generation, step]`` with images where the end was reached.

    Raises:
        ValueError: If there is no null condition or a window does not fit.
    """
    if mesh is not None:
        params, null_cond = place((params, null_cond), replicated(mesh))
    probe = prepare(
        eps_fn,
        params,
        x_T[0] if own_noise else x_T,
        null_cond,
        schedule,
        detectors=detectors,
        steps=steps,
        own_noise=own_noise,
        decode=decode,
        **sampling,
    )
    everything = (cond, jnp.asarray(x_T)) if own_noise else cond
    prompts = num_rows(cond)
    shards = 1 if mesh is None else row_shards(mesh)
    values, images, done = [], [], 0
    for numbers in chunk_numbers(prompts, chunk, shards):
        real = min(len(numbers), prompts - done)
        rows = take_rows(everything, numbers)
        per_step, end = probe(rows if mesh is None else place(rows, rows_over(mesh)))
        values.append({name: np.asarray(v)[:real] for name, v in per_step.items()})
        if end is not None and probe.finished:
            images.append(np.asarray(end)[:real])
        done += real
        if progress is not None:
            progress(done, prompts)
    return Detection(
        {name: np.concatenate([part[name] for part in values]) for name in values[0]},
        np.concatenate(images) if images else None,
        probe.forward_evals(prompts),
        probe.dim,
        probe.windows,
    )

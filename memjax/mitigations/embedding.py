"""Prompt-embedding optimization: lower a memorization statistic by moving the condition.

One pass of the optimizer is left at several targets: AdamW's path does not depend on them.

References:
    Wen et al., ICLR 2024, Eq. 5 (the statistic there is the magnitude at the first step), and the
    targets 1 to 5 of its figures.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from memjax.core.condition import embeddings_of, repeat_cond, token_mask, with_embeddings
from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Detector, EpsFn, Params
from memjax.detectors import DETECTORS
from memjax.detectors.base import refuse_undifferentiable
from memjax.mitigations.base import Mitigation, Problem, Setup, concatenated
from memjax.sampling import STATIC_ARGUMENTS, States, collect_states, first_step_states


class TargetsResult(NamedTuple):
    """What one pass of the optimizer gives for several targets.

    Attributes:
        embeddings: Optimized embeddings, target by target.
        losses: Statistic before each iteration and after the last, in rows; NaN after a prompt
            had reached its lowest target.
        loss: The statistic at the returned embeddings.
        iterations: Updates until each target, or all of them where it was not reached.
    """

    embeddings: Float[Array, "k p l d"]
    losses: Float[Array, "i p"]
    loss: Float[Array, "k p"]
    iterations: Int[Array, "k p"]


def _project(e, start, radius):
    """Pulls each prompt's embedding back into the l2 ball of ``radius`` around ``start``."""
    offset = e - start
    norm = jnp.sqrt(jnp.sum(offset**2, axis=(1, 2), keepdims=True))
    return start + offset * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-12))


class _Loop(NamedTuple):
    """The path so far, and for each target the embedding that met it (or the newest one)."""

    iteration: Int[Array, ""]
    e: Float[Array, "p l d"]
    opt_state: optax.OptState
    active: Bool[Array, "k p"]
    losses: Float[Array, "i p"]
    kept: TargetsResult


def optimize_targets(
    statistic: Detector,
    eps_fn: EpsFn,
    params: Params,
    states: States,
    cond: Cond,
    *,
    targets: Float[Array, "k #p"] | Float[Array, " k"],
    num_iters: int = 10,
    learning_rate: Array | float = 0.05,
    radius: Array | float = jnp.inf,
    weight_decay: Array | float = 0.0,
    trainable: Bool[Array, "#p l"] | None = None,
    group: int | None = None,
    null_cond: Cond | None = None,
    schedule: NoiseSchedule | None = None,
) -> TargetsResult:
    """Minimizes a statistic over each prompt's embedding, once for all targets.

    ``L_p(e) = mean_m statistic(x_{p,m}, t_{p,m}, e)`` over the prompt's states. AdamW's path does
    not depend on the target, which only says where to leave it: the embedding for target τ is the
    first one with ``L_p ≤ τ``, or the last one. So k targets cost one pass, down to the lowest.

    Args:
        statistic: What to minimize, any differentiable detector of states; static under jit. Use
            an RMS statistic for RMS targets.
        eps_fn: The network; static under jit.
        params: Its weights.
        states: Where to measure, with the unconditional half computed once.
        cond: Token conditions of p prompts.
        targets: One row a target, for all prompts or ``[k, p]``; 0 runs all iterations.
        num_iters: Most updates; static.
        learning_rate: AdamW's.
        radius: Keep ``‖e − e_0‖₂ ≤ radius`` (per prompt, over all tokens) by projection.
        weight_decay: AdamW's decoupled decay; the official script's optimizer default is 0.01.
        trainable: Which tokens may move, ``[1, l]`` or one row a prompt; default all but the first
            (BOS). Padding never moves.
        group: States of a prompt evaluated together, a divisor of their number; their gradients
            are added up, so that memory does not grow with the number of states. None: all of
            them; static.
        null_cond: The null condition, for statistics that evaluate the network again.
        schedule: The noise schedule, for statistics of the score.

    Returns:
        Embeddings, statistic and updates per target and prompt.

    Raises:
        ValueError: If ``group`` does not divide the number of states, or the statistic is not
            differentiable.

    .. note:: As :func:`optimize_embedding`.
    """
    refuse_undifferentiable(statistic)
    per_prompt = states.x_t.shape[1]
    if per_prompt % (group or per_prompt):
        raise ValueError(
            f"group is {group}, expected a divisor of the {per_prompt} states of a prompt."
        )
    start = embeddings_of(cond)
    prompts = len(start)
    if trainable is None:
        trainable = jnp.arange(start.shape[1])[None, :] > 0
    trainable_tokens = (token_mask(cond) & jnp.atleast_2d(jnp.asarray(trainable)))[..., None]
    targets = jnp.asarray(targets, jnp.float32)
    targets = targets[:, None] if targets.ndim == 1 else targets
    targets = jnp.broadcast_to(targets, (len(targets), prompts))
    value_and_gradient = _value_and_gradient(
        statistic, Denoiser(eps_fn, params, null_cond, schedule), states, cond, group or per_prompt
    )
    tx = optax.adamw(learning_rate, weight_decay=weight_decay)

    def update(s: _Loop) -> _Loop:
        loss, gradient = value_and_gradient(s.e)
        running = jnp.any(s.active, axis=0)
        moving = s.active & (loss[None] > targets) & (s.iteration < num_iters)
        kept = s.kept._replace(
            embeddings=jnp.where(s.active[..., None, None], s.e[None], s.kept.embeddings),
            loss=jnp.where(s.active, loss[None], s.kept.loss),
            iterations=s.kept.iterations + moving,
        )
        grads = jax.lax.cond(jnp.any(moving), gradient, lambda: jnp.zeros_like(s.e))
        updates, opt_state = tx.update(grads, s.opt_state, s.e)
        moved = jnp.where(trainable_tokens, optax.apply_updates(s.e, updates), s.e)
        further = jnp.any(moving, axis=0)[:, None, None]
        e = jnp.where(further, _project(moved, start, radius), s.e)
        losses = s.losses.at[s.iteration].set(jnp.where(running, loss, jnp.nan))
        return _Loop(s.iteration + 1, e, opt_state, moving, losses, kept)

    course = jnp.full((num_iters + 1, prompts), jnp.nan, jnp.float32)
    initial = _Loop(
        jnp.zeros((), jnp.int32),
        start,
        tx.init(start),
        jnp.ones(targets.shape, bool),
        course,
        TargetsResult(
            jnp.broadcast_to(start, (len(targets), *start.shape)),
            course,
            jnp.zeros(targets.shape, jnp.float32),
            jnp.zeros(targets.shape, jnp.int32),
        ),
    )
    # The last pass only measures, in the loop's program instead of another; no gradient is taken.
    end = jax.lax.while_loop(lambda s: jnp.any(s.active), update, initial)
    return end.kept._replace(losses=end.losses)


def _value_and_gradient(statistic: Detector, net: Denoiser, states: States, cond: Cond, group: int):
    """Returns ``e → (L_p [p], () → ∂L_p/∂e)``, with ``group`` states of every prompt at a time."""
    prompts, per_prompt = states.x_t.shape[:2]
    calls = per_prompt // group

    def grouped(a):
        a = a.reshape(prompts, calls, group, *a.shape[2:])
        return jnp.swapaxes(a, 0, 1).reshape(calls, prompts * group, *a.shape[3:])

    def at(part: States, e):
        rows = repeat_cond(with_embeddings(cond, e), group)
        cached = None if part.null is None else CachedNull(part.null)
        state = net.at(part.x_t, part.t, rows, cached=cached, maps="maps" in statistic.needs)
        values = statistic(state, net)
        return jnp.mean(values.reshape(prompts, group), axis=1)

    def one(part: States, e):
        loss, pullback = jax.vjp(lambda moved: at(part, moved), e)
        return loss, lambda: pullback(jnp.ones_like(loss))[0]

    def both(part: States, e):
        loss, gradient = one(part, e)
        return loss, gradient()

    def in_groups(e):
        loss, grads = jax.tree.map(
            lambda a: jnp.mean(a, axis=0), jax.lax.map(lambda part: both(part, e), parts)
        )
        return loss, lambda: grads

    parts = jax.tree.map(grouped, states)
    if calls == 1:
        return lambda e: one(jax.tree.map(lambda a: a[0], parts), e)
    return in_groups


class EmbeddingResult(NamedTuple):
    """The mitigated condition and how it was reached.

    Attributes:
        cond: The condition with optimized embeddings.
        losses: Statistic before each iteration and after the last, in rows; NaN after a prompt
            was finished.
        loss: The statistic at the returned embedding.
        iterations: Updates done per prompt.
    """

    cond: Cond
    losses: Float[Array, "i p"]
    loss: Float[Array, " p"]
    iterations: Int[Array, " p"]


def optimize_embedding(
    statistic: Detector,
    eps_fn: EpsFn,
    params: Params,
    states: States,
    cond: Cond,
    *,
    num_iters: int = 10,
    learning_rate: Array | float = 0.05,
    target: Array | float = 0.0,
    radius: Array | float = jnp.inf,
    weight_decay: Array | float = 0.0,
    trainable: Bool[Array, "#p l"] | None = None,
    null_cond: Cond | None = None,
    schedule: NoiseSchedule | None = None,
) -> EmbeddingResult:
    """Minimizes a statistic over each prompt's embedding with AdamW.

    ``L_p(e) = mean_m statistic(x_{p,m}, t_{p,m}, e)`` over the prompt's states; the prompt is
    finished, and its row frozen, as soon as ``L_p ≤ target`` (tested before each update, so the
    returned embedding is the one that reached the target).

    Args:
        statistic: What to minimize, any differentiable detector of states; static under jit. Use
            an RMS statistic for an RMS target.
        eps_fn: The network; static under jit.
        params: Its weights.
        states: Where to measure, with the unconditional half computed once.
        cond: Token conditions of p prompts.
        num_iters: Most updates; static.
        learning_rate: AdamW's.
        target: Per-prompt target, one number or ``[p]``; 0 runs all iterations.
        radius: Keep ``‖e − e_0‖₂ ≤ radius`` (per prompt, over all tokens) by projection.
        weight_decay: AdamW's decoupled decay; the official script's optimizer default is 0.01.
        trainable: Which tokens may move, ``[1, l]`` or one row a prompt; default all but the first
            (BOS). Padding never moves. Keeping the tokens of what was asked for fixed protects
            what the image should show.
        null_cond: The null condition, for statistics that evaluate the network again.
        schedule: The noise schedule, for statistics of the score.

    Returns:
        The conditions and the course of the statistic.

    .. note:: The *update* is masked, weight decay included: masking the gradient alone lets the
        decay move the protected row. The statistic is the mean of per-example norms; the official
        loss is one norm over all generations, so its target 3 at n=4 is about 1.5 here.
    """
    target = jnp.asarray(target, jnp.float32)
    found = optimize_targets(
        statistic,
        eps_fn,
        params,
        states,
        cond,
        targets=target[None],
        num_iters=num_iters,
        learning_rate=learning_rate,
        radius=radius,
        weight_decay=weight_decay,
        trainable=trainable,
        null_cond=null_cond,
        schedule=schedule,
    )
    moved = with_embeddings(cond, found.embeddings[0])
    return EmbeddingResult(moved, found.losses, found.loss[0], found.iterations[0])


_collect = jax.jit(collect_states, static_argnames=("steps", "own_noise", *STATIC_ARGUMENTS))
_first = jax.jit(first_step_states, static_argnames=("eps_fn", "own_noise"))
_optimize = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def states_of(problem: Problem, setup: Setup, steps: tuple[int, ...]) -> States:
    """Returns the states of a problem's prompts at some steps, with ε_∅ computed once.

    Args:
        problem: What is sampled.
        setup: How.
        steps: Step indices; ``(0,)`` is the initial noise and makes no trajectory.
    """
    network = (setup.eps_fn, problem.params, problem.x_T)
    if tuple(steps) == (0,):
        return _first(
            *network,
            setup.first_timestep,
            problem.cond,
            problem.null_cond,
            own_noise=problem.own_noise,
        )
    return _collect(
        *network,
        problem.cond,
        problem.null_cond,
        setup.schedule,
        steps=tuple(steps),
        guidance=problem.guidance,
        own_noise=problem.own_noise,
        **setup.sampling,
    )


@dataclasses.dataclass(frozen=True)
class EmbeddingOptimization(Mitigation):
    """Prompt-embedding optimization: lowers a detector at some steps of the guided trajectory.

    Attributes:
        detector: What is minimized: any differentiable detector of states.
        steps: Step indices over which its mean is taken.
        num_iters: Most updates; 0 is the identity.
        learning_rate: AdamW's.
        weight_decay: AdamW's, masked like the update.
        target: A prompt is left at this value of the detector; 0 runs all updates. None: at
            ``target_ordinary`` times the mean of ordinary prompts, where that is known.
        target_ordinary: See there.
        radius: Ball around the original embedding.
        protect: Labels whose tokens stay as they are.

    References:
        Wen et al., ICLR 2024, Eq. 5; steps after the first are memjax's.
    """

    stage: ClassVar = "cond"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    cost: ClassVar[str] = "one trajectory, then 3 evaluations a step index, noise and update"
    evaluates: ClassVar[bool] = True

    detector: str = "noise_magnitude:rms=true"
    steps: tuple[int, ...] = (5, 15, 25, 35)
    num_iters: int = 20
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    target: float | None = dataclasses.field(default=None, metadata={"signed": True})
    target_ordinary: float = 1.0
    radius: float = float("inf")
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse_undifferentiable(self.statistic)
        if not self.steps or min(self.steps) < 0:
            raise ValueError(f"steps={self.steps}: expected step indices from 0 on.")
        for name, least in (
            ("num_iters", 0),
            ("learning_rate", 0.0),
            ("weight_decay", 0.0),
            ("radius", 0.0),
            ("target_ordinary", 0.0),
        ):
            value = getattr(self, name)
            if not value >= least or (name != "radius" and math.isinf(value)):
                raise ValueError(f"{name} is {value}, expected a finite number from {least} on.")

    @property
    def statistic(self) -> Detector:
        """The detector that is minimized."""
        return DETECTORS.parse(self.detector)

    def stop_at(self, setup: Setup) -> float:
        """Returns the value of the detector at which a prompt is left."""
        if self.target is not None:
            return self.target
        level = None if setup.level is None else setup.level(self.statistic, self.steps)
        return 0.0 if level is None else self.target_ordinary * level

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        del key
        if not self.num_iters:
            return problem
        movable = setup.movable(problem, self.protect)
        target, done = self.stop_at(setup), []
        for part, numbers in problem.chunks(setup.chunk):
            states = setup.known_states(problem, self.steps, numbers)
            found = _optimize(
                self.statistic,
                setup.eps_fn,
                problem.params,
                states_of(part, setup, self.steps) if states is None else states,
                part.cond,
                num_iters=self.num_iters,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                target=target,
                radius=self.radius,
                trainable=movable[numbers],
                null_cond=problem.null_cond if self.statistic.evals else None,
                schedule=setup.schedule,
            )
            done.append(found.cond)
        return problem._replace(cond=concatenated(done, problem.size))


@dataclasses.dataclass(frozen=True)
class FirstStepEmbedding(EmbeddingOptimization):
    """Prompt-embedding optimization at the initial noise alone, the published setting.

    References:
        Wen et al., ICLR 2024, Eq. 5 and section 4.2.
    """

    cost: ClassVar[str] = "3 evaluations a noise and update"

    steps: tuple[int, ...] = (0,)
    num_iters: int = 10
    learning_rate: float = 0.05

"""Prompt-embedding optimisation: lower a memorisation statistic by moving the condition.

References:
    Wen et al., ICLR 2024, Eq. 5 (the statistic there is the magnitude at the first step).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from memjax.core.condition import (
    embeddings_of,
    num_rows,
    repeat_cond,
    token_mask,
    with_embeddings,
)
from memjax.core.guidance import CachedNull, cache_null
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, Statistic, StepInfo
from memjax.sampling import sample


class States(NamedTuple):
    """Where the statistic is minimised: m states a prompt, with the unconditional half cached."""

    x_t: Float[Array, "p m *d"]
    t: Int[Array, "p m"]
    null: Float[Array, "p m *d"]


class EmbeddingResult(NamedTuple):
    """The mitigated condition and how it was reached.

    Attributes:
        cond: The condition with optimised embeddings.
        losses: Statistic before each iteration and after the last, in rows; NaN after a prompt
            was finished.
        loss: The statistic at the returned embedding.
        iterations: Updates done per prompt.
    """

    cond: Cond
    losses: Float[Array, "i p"]
    loss: Float[Array, " p"]
    iterations: Int[Array, " p"]


class _Tap(NamedTuple):
    def __call__(self, info: StepInfo):
        return info.x_t, info.t, info.eps_uncond


def first_step_states(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    t: Int[Array, ""],
    cond: Cond,
    null_cond: Cond,
) -> States:
    """Returns the paper's setting: the initial noise at the first timestep, for every prompt.

    The unconditional half is computed once for all prompts.
    """
    prompts, generations = num_rows(cond), x_T.shape[0]
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
        **sampling: Passed to :func:`memjax.sampling.sample`.

    Raises:
        ValueError: If a step index is out of range.
    """
    if not steps or min(steps) < 0 or max(steps) >= num_steps:
        raise ValueError(f"steps={steps}: expected step indices between 0 and {num_steps - 1}.")
    prompts, generations = num_rows(cond), x_T.shape[0]
    x = jnp.tile(x_T, (prompts,) + (1,) * (x_T.ndim - 1))
    taps = sample(
        eps_fn,
        params,
        x,
        repeat_cond(cond, generations),
        null_cond,
        schedule,
        num_steps=num_steps,
        stop_after=max(steps) + 1,
        tap=_Tap(),
        **sampling,
    ).taps
    x_t, t, null = jax.tree.map(lambda a: a[np.asarray(steps)], taps)

    def per_prompt(a):
        a = a.reshape(len(steps), prompts, generations, *x_T.shape[1:])
        return jnp.swapaxes(a, 0, 1).reshape(prompts, -1, *x_T.shape[1:])

    t = jnp.broadcast_to(jnp.repeat(t, generations), (prompts, len(steps) * generations))
    return States(per_prompt(x_t), t, per_prompt(null))


def _project(e, start, radius):
    """Pulls each prompt's embedding back into the l2 ball of ``radius`` around ``start``."""
    offset = e - start
    norm = jnp.sqrt(jnp.sum(offset**2, axis=(1, 2), keepdims=True))
    return start + offset * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-12))


class _Loop(NamedTuple):
    iteration: Int[Array, ""]
    e: Float[Array, "p l d"]
    opt_state: optax.OptState
    active: Bool[Array, " p"]
    loss: Float[Array, " p"]
    losses: Float[Array, "i p"]
    iterations: Int[Array, " p"]


def optimize_embedding(
    statistic: Statistic,
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
    trainable: Bool[Array, " l"] | None = None,
) -> EmbeddingResult:
    """Minimises a statistic over each prompt's embedding with AdamW.

    ``L_p(e) = mean_m statistic(x_{p,m}, t_{p,m}, e)`` over the prompt's states; the prompt is
    finished, and its row frozen, as soon as ``L_p ≤ target`` (tested before each update, so the
    returned embedding is the one that reached the target).

    Args:
        statistic: What to minimise; static under jit. Use an RMS statistic for an RMS target.
        eps_fn: The network; static under jit.
        params: Its weights.
        states: Where to measure, with the unconditional half computed once.
        cond: Token conditions of p prompts.
        num_iters: Most updates; static.
        learning_rate: AdamW's.
        target: Per-prompt target, one number or ``[p]``; 0 runs all iterations.
        radius: Keep ``‖e − e_0‖₂ ≤ radius`` (per prompt, over all tokens) by projection.
        weight_decay: AdamW's decoupled decay; the official script's optimiser default is 0.01.
        trainable: Which token positions may move; default all but the first (BOS). Padding never
            moves.

    Returns:
        The conditions and the course of the statistic.

    .. note:: The *update* is masked, weight decay included: masking the gradient alone lets the
        decay move the protected row. The statistic is the mean of per-example norms; the official
        loss is one norm over all generations, so its target 3 at n=4 is about 1.5 here.
    """
    prompts, per_prompt = states.x_t.shape[:2]
    start = embeddings_of(cond)
    if trainable is None:
        trainable = jnp.arange(start.shape[1]) > 0
    may_move = (token_mask(cond) & jnp.asarray(trainable)[None, :])[..., None]
    flat = jax.tree.map(lambda a: a.reshape(prompts * per_prompt, *a.shape[2:]), states)
    target = jnp.broadcast_to(jnp.asarray(target, jnp.float32), (prompts,))
    tx = optax.adamw(learning_rate, weight_decay=weight_decay)

    def losses_of(e):
        rows = repeat_cond(with_embeddings(cond, e), per_prompt)
        values = statistic(eps_fn, params, flat.x_t, flat.t, rows, CachedNull(flat.null))
        return jnp.mean(values.reshape(prompts, per_prompt), axis=1)

    def value_and_grad(e):
        loss, pullback = jax.vjp(losses_of, e)
        return loss, pullback(jnp.ones_like(loss))[0]

    def update(s: _Loop) -> _Loop:
        loss, grads = value_and_grad(s.e)
        active = s.active & (loss > target)
        updates, opt_state = tx.update(grads, s.opt_state, s.e)
        moved = jnp.where(may_move, optax.apply_updates(s.e, updates), s.e)
        e = jnp.where(active[:, None, None], _project(moved, start, radius), s.e)
        losses = s.losses.at[s.iteration].set(jnp.where(s.active, loss, jnp.nan))
        seen = jnp.where(s.active, loss, s.loss)
        return _Loop(s.iteration + 1, e, opt_state, active, seen, losses, s.iterations + active)

    initial = _Loop(
        jnp.zeros((), jnp.int32),
        start,
        tx.init(start),
        jnp.ones((prompts,), bool),
        jnp.zeros((prompts,), jnp.float32),
        jnp.full((num_iters + 1, prompts), jnp.nan, jnp.float32),
        jnp.zeros((prompts,), jnp.int32),
    )
    end = jax.lax.while_loop(
        lambda s: (s.iteration < num_iters) & jnp.any(s.active), update, initial
    )
    final = losses_of(end.e)
    losses = end.losses.at[num_iters].set(jnp.where(end.active, final, jnp.nan))
    return EmbeddingResult(
        with_embeddings(cond, end.e), losses, jnp.where(end.active, final, end.loss), end.iterations
    )

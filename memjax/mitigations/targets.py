"""The optimiser's path through embeddings, left at several targets: one pass for all of them.

References:
    Wen et al., ICLR 2024, Eq. 5, and the targets 1 to 5 of its figures.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from memjax.core.condition import embeddings_of, repeat_cond, token_mask, with_embeddings
from memjax.core.guidance import CachedNull
from memjax.core.types import Array, Cond, EpsFn, Params, Statistic
from memjax.sampling.states import States


class TargetsResult(NamedTuple):
    """What one pass of the optimiser gives for several targets.

    Attributes:
        embeddings: Optimised embeddings, target by target.
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
    statistic: Statistic,
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
) -> TargetsResult:
    """Minimises a statistic over each prompt's embedding, once for all targets.

    ``L_p(e) = mean_m statistic(x_{p,m}, t_{p,m}, e)`` over the prompt's states. AdamW's path does
    not depend on the target, which only says where to leave it: the embedding for target τ is the
    first one with ``L_p ≤ τ``, or the last one. So k targets cost one pass, down to the lowest.

    Args:
        statistic: What to minimise; static under jit. Use an RMS statistic for RMS targets.
        eps_fn: The network; static under jit.
        params: Its weights.
        states: Where to measure, with the unconditional half computed once.
        cond: Token conditions of p prompts.
        targets: One row a target, for all prompts or ``[k, p]``; 0 runs all iterations.
        num_iters: Most updates; static.
        learning_rate: AdamW's.
        radius: Keep ``‖e − e_0‖₂ ≤ radius`` (per prompt, over all tokens) by projection.
        weight_decay: AdamW's decoupled decay; the official script's optimiser default is 0.01.
        trainable: Which tokens may move, ``[1, l]`` or one row a prompt; default all but the first
            (BOS). Padding never moves.
        group: States of a prompt evaluated together, a divisor of their number; their gradients
            are added up, so that memory does not grow with the number of states. None: all of
            them; static.

    Returns:
        Embeddings, statistic and updates per target and prompt.

    Raises:
        ValueError: If ``group`` does not divide the number of states.

    .. note:: As :func:`optimize_embedding`.
    """
    per_prompt = states.x_t.shape[1]
    if per_prompt % (group or per_prompt):
        raise ValueError(
            f"group is {group}, expected a divisor of the {per_prompt} states of a prompt."
        )
    start = embeddings_of(cond)
    prompts = len(start)
    if trainable is None:
        trainable = jnp.arange(start.shape[1])[None, :] > 0
    may_move = (token_mask(cond) & jnp.atleast_2d(jnp.asarray(trainable)))[..., None]
    targets = jnp.asarray(targets, jnp.float32)
    targets = targets[:, None] if targets.ndim == 1 else targets
    targets = jnp.broadcast_to(targets, (len(targets), prompts))
    value_and_gradient = _value_and_gradient(
        statistic, eps_fn, params, states, cond, group or per_prompt
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
        moved = jnp.where(may_move, optax.apply_updates(s.e, updates), s.e)
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


def _value_and_gradient(statistic, eps_fn, params, states: States, cond: Cond, group: int):
    """Returns ``e → (L_p [p], () → ∂L_p/∂e)``, with ``group`` states of every prompt at a time."""
    prompts, per_prompt = states.x_t.shape[:2]
    calls = per_prompt // group

    def grouped(a):
        a = a.reshape(prompts, calls, group, *a.shape[2:])
        return jnp.swapaxes(a, 0, 1).reshape(calls, prompts * group, *a.shape[3:])

    def at(part: States, e):
        rows = repeat_cond(with_embeddings(cond, e), group)
        values = statistic(eps_fn, params, part.x_t, part.t, rows, CachedNull(part.null))
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

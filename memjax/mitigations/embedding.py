"""Prompt-embedding optimisation: lower a memorisation statistic by moving the condition.

References:
    Wen et al., ICLR 2024, Eq. 5 (the statistic there is the magnitude at the first step).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from memjax.core.condition import (
    embeddings_of,
    repeat_cond,
    token_mask,
    with_embeddings,
)
from memjax.core.guidance import CachedNull
from memjax.core.types import Array, Cond, EpsFn, Params, Statistic
from memjax.sampling.states import States


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
    trainable: Bool[Array, "#p l"] | None = None,
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
        trainable: Which tokens may move, ``[1, l]`` or one row a prompt; default all but the first
            (BOS). Padding never moves. Keeping the tokens of what was asked for fixed protects
            what the picture should show.

    Returns:
        The conditions and the course of the statistic.

    .. note:: The *update* is masked, weight decay included: masking the gradient alone lets the
        decay move the protected row. The statistic is the mean of per-example norms; the official
        loss is one norm over all generations, so its target 3 at n=4 is about 1.5 here.
    """
    prompts, per_prompt = states.x_t.shape[:2]
    start = embeddings_of(cond)
    if trainable is None:
        trainable = jnp.arange(start.shape[1])[None, :] > 0
    may_move = (token_mask(cond) & jnp.atleast_2d(jnp.asarray(trainable)))[..., None]
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
        moving = s.active & (loss > target) & (s.iteration < num_iters)
        updates, opt_state = tx.update(grads, s.opt_state, s.e)
        moved = jnp.where(may_move, optax.apply_updates(s.e, updates), s.e)
        e = jnp.where(moving[:, None, None], _project(moved, start, radius), s.e)
        losses = s.losses.at[s.iteration].set(jnp.where(s.active, loss, jnp.nan))
        seen = jnp.where(s.active, loss, s.loss)
        return _Loop(s.iteration + 1, e, opt_state, moving, seen, losses, s.iterations + moving)

    initial = _Loop(
        jnp.zeros((), jnp.int32),
        start,
        tx.init(start),
        jnp.ones((prompts,), bool),
        jnp.zeros((prompts,), jnp.float32),
        jnp.full((num_iters + 1, prompts), jnp.nan, jnp.float32),
        jnp.zeros((prompts,), jnp.int32),
    )
    # The last pass only measures: it reuses the loop's program instead of compiling another.
    end = jax.lax.while_loop(lambda s: jnp.any(s.active), update, initial)
    return EmbeddingResult(with_embeddings(cond, end.e), end.losses, end.loss, end.iterations)

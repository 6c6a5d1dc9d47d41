"""Prompt-embedding optimisation: lower a memorisation statistic by moving the condition.

References:
    Wen et al., ICLR 2024, Eq. 5 (the statistic there is the magnitude at the first step).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from memjax.core.condition import with_embeddings
from memjax.core.types import Array, Cond, EpsFn, Params, Statistic
from memjax.mitigations.targets import optimize_targets
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
    )
    moved = with_embeddings(cond, found.embeddings[0])
    return EmbeddingResult(moved, found.losses, found.loss[0], found.iterations[0])

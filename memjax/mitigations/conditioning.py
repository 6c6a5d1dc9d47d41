"""Two cheap baselines that perturb the condition and need neither gradient nor training data.

References:
    Somepalli et al., NeurIPS 2023, arXiv 2305.20086, §5 (Gaussian noise; random replacement).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from memjax.core.condition import embeddings_of, token_mask, with_embeddings
from memjax.core.types import Array, Cond
from memjax.mitigations.base import Mitigation, Problem, Setup


def add_embedding_noise(key: Array, cond: Cond, scale: Array | float) -> Cond:
    """Adds ``scale · rms(e) · N(0, I)`` to the real tokens.

    Args:
        key: Typed PRNG key.
        cond: Token condition.
        scale: Noise relative to the condition's own root mean square, ≥ 0; 0 changes nothing.

    .. note:: Relative to rms(e), since a published λ only fits one text encoder; and the null
        condition stays untouched, while the official script noises it too.
    """
    e = embeddings_of(cond)
    mask = token_mask(cond)[..., None]
    count = jnp.maximum(jnp.sum(mask, axis=(1, 2), keepdims=True) * e.shape[-1], 1)
    rms = jnp.sqrt(jnp.sum(jnp.where(mask, e, 0.0) ** 2, axis=(1, 2), keepdims=True) / count)
    noise = scale * rms * jax.random.normal(key, e.shape, e.dtype)
    return with_embeddings(cond, e + jnp.where(mask, noise, 0.0))


def swap_tokens(key: Array, cond: Cond, pool: Cond, num_tokens: int) -> Cond:
    """Replaces ``num_tokens`` random tokens a row by those of a random row of ``pool``.

    For label tokens, whose positions mean the same in every row, this is a random change of
    findings, view, sex, age or marker. The first token (BOS) is kept.

    Args:
        key: Typed PRNG key.
        cond: Token condition, ``[b, l, d]``.
        pool: Conditions to draw from, ``[n, l, d]``.
        num_tokens: How many tokens to replace, in [0, l − 1]; static.

    Raises:
        ValueError: If the two have different shapes of token, or ``num_tokens`` is out of range.
    """
    e, others = embeddings_of(cond), embeddings_of(pool)
    if e.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"the pool's tokens have shape {others.shape[1:]}, expected {e.shape[1:]}: encode it "
            "with the same model."
        )
    if not 0 <= num_tokens < e.shape[1]:
        raise ValueError(f"num_tokens is {num_tokens}, expected between 0 and {e.shape[1] - 1}.")
    row_key, token_key = jax.random.split(key)
    donors = others[jax.random.randint(row_key, (e.shape[0],), 0, others.shape[0])]
    order = jnp.argsort(jax.random.uniform(token_key, (e.shape[0], e.shape[1] - 1)), axis=1)
    chosen = jnp.argsort(order, axis=1) < num_tokens
    chosen = jnp.concatenate([jnp.zeros((e.shape[0], 1), bool), chosen], axis=1)
    return with_embeddings(cond, jnp.where(chosen[..., None], donors, e))


@dataclasses.dataclass(frozen=True)
class EmbeddingNoise(Mitigation):
    """Gaussian noise on the token embeddings.

    Attributes:
        scale: Relative to the condition's root mean square; 0 is the identity.

    References:
        Somepalli et al., NeurIPS 2023, section 5.
    """

    stage: ClassVar = "cond"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    cost: ClassVar[str] = "free"

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}, expected a finite number from 0 on.")

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        del setup
        if not self.scale:
            return problem
        return problem._replace(cond=add_embedding_noise(key, problem.cond, self.scale))


@dataclasses.dataclass(frozen=True)
class TokenSwap(Mitigation):
    """Random tokens of the condition replaced by those of other prompts.

    Attributes:
        tokens: How many, at most all but the first; 0 is the identity.

    References:
        Somepalli et al., NeurIPS 2023, section 5 (random replacement).
    """

    stage: ClassVar = "cond"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    cost: ClassVar[str] = "free"

    tokens: int = 4

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ValueError(f"tokens is {self.tokens}, expected a whole number from 0 on.")

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        if not self.tokens:
            return problem
        pool = problem.cond if setup.pool is None else setup.pool
        most = embeddings_of(problem.cond).shape[1] - 1  # BOS stays
        swapped = swap_tokens(key, problem.cond, pool, min(self.tokens, most))
        return problem._replace(cond=swapped)

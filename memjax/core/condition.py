"""Reading and replacing the token embeddings inside an opaque condition."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.types import Array, Cond, TextCond, TokenCond


def embeddings_of(cond: Cond) -> Float[Array, "b l d"]:
    """Returns the token embeddings of a condition.

    Args:
        cond: A :class:`TokenCond`, an ``(embeddings, mask)`` pair, or the embeddings themselves.

    Raises:
        ValueError: If no ``[batch, tokens, features]`` array is found.
    """
    embeddings = cond[0] if isinstance(cond, tuple) else cond
    if getattr(embeddings, "ndim", None) != 3:
        raise ValueError(
            f"the condition is a {type(cond).__name__} without [batch, tokens, features] "
            "embeddings: pass TokenCond(embeddings, mask), a pair, or the embeddings alone."
        )
    return embeddings


def with_embeddings(cond: Cond, embeddings: Float[Array, "b l d"]) -> Cond:
    """Returns the condition with its embeddings replaced."""
    if isinstance(cond, TokenCond | TextCond):
        return cond._replace(embeddings=embeddings)
    return (embeddings, *cond[1:]) if isinstance(cond, tuple) else embeddings


def token_mask(cond: Cond) -> Bool[Array, "b l"]:
    """Returns which tokens are real; all of them where the condition carries no mask."""
    if isinstance(cond, tuple) and len(cond) > 1:
        return cond[1].astype(bool)
    return jnp.ones(embeddings_of(cond).shape[:2], bool)


def text_length(cond: Cond) -> Int[Array, " b"] | None:
    """Returns how many tokens a text has up to and including its end token; None where unsaid."""
    return cond.length if isinstance(cond, TextCond) else None


def repeat_cond(cond: Cond, times: int) -> Cond:
    """Repeats each row ``times`` times in place: ``[p, ...] → [p·times, ...]``."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), cond)


def num_rows(cond: Cond) -> int:
    """Returns the batch size of a condition."""
    return jax.tree.leaves(cond)[0].shape[0]


def take_rows(cond: Cond, rows: slice | Array) -> Cond:
    """Returns some rows of a condition."""
    return jax.tree.map(lambda leaf: leaf[rows], cond)


def chunk_numbers(count: int, size: int, multiple: int = 1) -> list[Int[np.ndarray, " k"]]:
    """Returns the rows of each chunk of one size; the last row fills the last chunk.

    Args:
        count: How many rows there are.
        size: Most rows of a chunk.
        multiple: Chunks are rounded up to a multiple of this, such as the number of devices.
    """
    size = min(size, count) or 1
    size += -size % multiple
    return [np.arange(s, s + size).clip(max=count - 1) for s in range(0, count, size)]

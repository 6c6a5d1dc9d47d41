"""Label rows and token ids → token conditions.

References:
    Ho and Salimans 2022, arXiv 2207.12598 (a learned null condition).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.types import Array, TokenCond
from memjax.models.initial import initializer


def null_labels(num_slots: int, batch: int = 1) -> Int[np.ndarray, "b slots"]:
    """Returns the label rows of the unconditional condition: id 0 in every slot."""
    return np.zeros((batch, num_slots), np.int32)


def table_offsets(
    sizes: Sequence[int], tables: Sequence[str] = ()
) -> tuple[Int[np.ndarray, " slots"], int]:
    """Returns the first row of each slot in the table of embeddings, and its number of rows.

    Args:
        sizes: Number of ids of each slot.
        tables: Name of each slot's rows; the same non-empty name, the same rows. Empty: none are
            shared.

    Raises:
        ValueError: If slots of one name differ in size, or there is not one name a slot.
    """
    names = tuple(tables) or ("",) * len(sizes)
    if len(names) != len(sizes):
        raise ValueError(f"tables has {len(names)} names for {len(sizes)} slots: give one each.")
    starts, shared, total = [], dict[str, tuple[int, int]](), 0
    for name, size in zip(names, sizes, strict=True):
        start, expected = shared.get(name, (total, size))
        if size != expected:
            raise ValueError(
                f"slots of the table {name!r} have {expected} and {size} ids, expected one number: "
                "give them the same values, or tables of their own."
            )
        starts.append(start)
        if name:
            shared[name] = (start, size)
        total = max(total, start + size)
    return np.asarray(starts, np.int32), total


class LabelTokens(nn.Module):
    """Embeds label rows as the token sequence ``[BOS, slot 1, …, slot n]``.

    Token k is ``E[offset_k + id_k] + P[k]``; id 0 of a slot is that slot's learned null.

    Attributes:
        sizes: Number of ids of each slot, null included.
        dim: Width of a token.
        tables: Name of each slot's rows; slots of the same non-empty name share them, so that a
            word means the same at every position of a caption. Empty: no slot shares.

    .. note:: The slots' rows lie in ONE table, of ``sum(sizes)`` rows where none are shared. Ids
        outside a slot's range are the encoder's to refuse
        (:class:`memjax.data.records.LabelSpace`); under jit they would be clipped to the slot.
    """

    sizes: tuple[int, ...]
    dim: int
    tables: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, labels: Int[Array, "b slots"]) -> TokenCond:
        sizes = np.asarray(self.sizes, np.int32)
        if labels.ndim != 2 or labels.shape[1] != len(sizes):
            raise ValueError(
                f"labels have shape {labels.shape}, expected [batch, {len(sizes)}]: "
                "one id for each slot."
            )
        offsets, rows = table_offsets(self.sizes, self.tables)
        table = self._parameter("table", rows)
        bos, position = self._parameter("bos", 1), self._parameter("position", len(sizes) + 1)
        ids = jnp.clip(labels, 0, jnp.asarray(sizes - 1)[None, :]) + offsets[None, :]
        start = jnp.broadcast_to(bos[None], (labels.shape[0], 1, self.dim))
        tokens = jnp.concatenate([start, table[ids]], axis=1) + position[None]
        return TokenCond(tokens, jnp.ones(tokens.shape[:2], bool))

    def _parameter(self, name: str, rows: int) -> Float[Array, "rows d"]:
        return self.param(name, initializer(name), (rows, self.dim))


class TextTokens(nn.Module):
    """Embeds token ids by one table and learned positions: the smallest text encoder.

    Attributes:
        vocabulary: Number of ids.
        max_length: Longest sequence.
        dim: Width of a token.
        pad_id: Id whose positions are masked out.
    """

    vocabulary: int
    max_length: int
    dim: int
    pad_id: int = 0

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"]) -> TokenCond:
        if ids.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence of {ids.shape[1]} tokens is longer than max_length="
                f"{self.max_length}: truncate it or raise max_length."
            )
        table = self.param("table", initializer("table"), (self.vocabulary, self.dim))
        shape = (self.max_length, self.dim)
        position = self.param("position", initializer("position"), shape)
        embeddings: Float[Array, "b l d"] = table[ids] + position[None, : ids.shape[1]]
        return TokenCond(embeddings, ids != self.pad_id)

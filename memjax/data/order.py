"""The endless sequence of rows: a function of the seed alone, entered at any step."""

from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Float, Int, Int32, Int64

from memjax.data.duplication import cumulative, repeat_indices


class RowDraws(NamedTuple):
    """The rows of one batch, and a number a position from which everything else is drawn."""

    row: Int32[np.ndarray, " b"]
    draw: Int64[np.ndarray, " b"]


def row_order(
    num: int,
    seed: int,
    repeats: Int[np.ndarray, " n"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
) -> grain.MapDataset:
    """The endless global sequence of ``{"row", "draw"}``; ``draw`` seeds what a row still draws.

    Args:
        num: Number of rows.
        seed: Decides the order.
        repeats: How often each row stands in one epoch.
        weights: Sampling weights: an epoch is then n draws with replacement.

    Raises:
        ValueError: Both are given, or one has not one entry a row.
    """
    if repeats is not None and weights is not None:
        raise ValueError("Both repeats and weights are given; give one of them.")
    for name, given in (("repeats", repeats), ("weights", weights)):
        if given is not None and len(given) != num:
            raise ValueError(f"{name} has {len(given)} entries for {num} rows.")
    rows = np.arange(num) if repeats is None else repeat_indices(repeats)
    base = grain.MapDataset.range(len(rows)).seed(seed)
    if weights is None:
        drawn = base.shuffle().random_map(_Pick(rows, None))
    else:
        drawn = base.random_map(_Pick(rows, cumulative(weights)))
    return drawn.repeat()


def row_draws(order: grain.MapDataset, batch_size: int, start_step: int = 0) -> Iterator[RowDraws]:
    """Endless batches of row numbers, from a step on.

    Raises:
        ValueError: The batch size or the step is impossible.
    """
    if batch_size < 1 or start_step < 0:
        raise ValueError(
            f"batch_size is {batch_size} and start_step {start_step}; expected at least 1 and 0."
        )

    def stream() -> Iterator[RowDraws]:
        position = start_step * batch_size
        while True:
            drawn = [order[i] for i in range(position, position + batch_size)]
            yield RowDraws(
                np.array([d["row"] for d in drawn], np.int32),
                np.array([d["draw"] for d in drawn], np.int64),
            )
            position += batch_size

    return stream()


class _Pick(NamedTuple):
    rows: np.ndarray
    cumulative: np.ndarray | None

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.integer]:
        if self.cumulative is not None:
            index = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        return {"row": np.int32(self.rows[index]), "draw": np.int64(rng.integers(2**62))}

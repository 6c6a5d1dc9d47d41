"""Batches of fine-tuning: moments of latents and a table of the captions' embeddings."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from memjax.data.order import RowDraws, row_draws, row_order
from memjax.data.planted_duplicates import Planted
from memjax.training.latents import LatentData

CAPTION_CHOICES = ("first", "duplicated", "all")
_STREAM = 2


class LatentBatch(NamedTuple):
    """What a step of fine-tuning is given.

    Attributes:
        moments: Mean and log-variance of each latent, unscaled, stacked in channels.
        labels: Each example's entry of ``table``: its place in the batch + 1.
        row: Row in the data set.
        table: The null caption's embedding, then each example's.
    """

    moments: Float32[np.ndarray, "b h w c2"]
    labels: Int32[np.ndarray, "b 1"]
    row: Int32[np.ndarray, " b"]
    table: Float32[np.ndarray, "b1 l d"]


def latent_batches(
    data: LatentData,
    planted: Planted,
    *,
    batch_size: int,
    seed: int,
    captions: str = "first",
    positions: Sequence[int] | Int[np.ndarray, " k"] | None = None,
) -> Callable[[int], Iterator[LatentBatch]]:
    """Returns ``step → endless batches from that step on``.

    Rows, mirror images and captions depend on seed and step alone.

    Args:
        data: Moments and embeddings.
        planted: How often each row is seen.
        batch_size: Examples a step.
        seed: Decides the order and the draws.
        captions: Which caption an example carries where its picture has several: ``first``, the
            usual one always (``dup_both`` of the paper); ``duplicated``, one drawn anew for
            duplicated pictures (``dup_image``); ``all``, one drawn anew for every picture (the
            paper's mitigation "multiple captions").
        positions: The places of the global batch whose moments this process needs; all of them by
            default. The table holds every place's caption in every process.

    Raises:
        ValueError: ``captions`` is unknown.

    References:
        Somepalli et al. 2023, arXiv 2305.20086, §4 and §6.
    """
    if captions not in CAPTION_CHOICES:
        raise ValueError(f"fine_tune.captions is {captions!r}, expected one of {CAPTION_CHOICES}.")
    several = np.zeros(len(planted.duplicated), bool)
    if captions != "first":
        several = planted.duplicated | (captions == "all")
    order = row_order(len(several), seed, planted.repeats, planted.weights)

    def batches_from(step: int) -> Iterator[LatentBatch]:
        for drawn in row_draws(order, batch_size, step):
            yield _batch(data, drawn, several, positions)

    return batches_from


def _batch(
    data: LatentData,
    drawn: RowDraws,
    several: Bool[np.ndarray, " n"],
    positions: Sequence[int] | Int[np.ndarray, " k"] | None,
) -> LatentBatch:
    places = np.arange(len(drawn.row)) if positions is None else np.asarray(positions)
    copies = np.zeros(len(drawn.row), np.int64)
    texts = np.zeros(len(drawn.row), np.int64)
    for place, (row, draw) in enumerate(zip(drawn.row, drawn.draw, strict=True)):
        rng = np.random.default_rng([int(draw), _STREAM])
        copies[place] = rng.integers(len(data.moments))
        count = int(data.captions.counts[row]) if several[row] else 1
        texts[place] = data.captions.of_row[row, rng.integers(count)]
    return LatentBatch(
        np.stack([data.moments[copies[p], drawn.row[p]] for p in places]).astype(np.float32),
        (places + 1).astype(np.int32)[:, None],
        drawn.row[places],
        np.stack([data.embeddings[i] for i in (0, *texts)]).astype(np.float32),
    )

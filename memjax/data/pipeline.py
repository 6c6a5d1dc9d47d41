"""Batches whose order depends on the seed and the step alone.

Not on the number of processes, workers or restarts: the global sequence of rows is a function of
the seed; a process takes its own positions of each global batch, and a restart begins at
``step · batch_size``. So a checkpoint needs no iterator state.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import grain
import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from memjax.data.images import CorruptImageError, Square, load_image, to_unit
from memjax.data.labels.space import NEGATIVE, POSITIVE
from memjax.data.order import row_order
from memjax.data.records import Batch, Record

Augment: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Places: TypeAlias = Sequence[int] | Int[np.ndarray, " k"]
_log = logging.getLogger("memjax.data")
_LABEL_STREAM = 1


class ImageSource(Protocol):
    """Random access to bytes: an array of images, or :class:`ImageFiles`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: Any, /) -> UInt8[np.ndarray, "h w c"]: ...


class ImageFiles:
    """Images decoded when they are read: for data that does not fit in memory.

    ``corrupt`` collects the rows that could not be decoded so far (in this process); each is
    logged once.

    Args:
        records: One per row.
        size: Edge in pixels.
        channels: 1 or 3.
        square: How an image becomes square, see :func:`memjax.data.images.load_image`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        size: int,
        channels: int = 1,
        square: Square = "crop",
    ):
        self.paths = [record.path for record in records]
        self.size, self.channels, self.square = size, channels, square
        self.corrupt: dict[int, CorruptImageError] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "h w c"]:
        if row in self.corrupt:
            raise self.corrupt[row]
        try:
            return load_image(self.paths[row], self.size, self.channels, square=self.square)
        except CorruptImageError as error:
            _log.warning("Row %d: %s", row, error)
            self.corrupt[row] = error
            raise


class _Fetch(NamedTuple):
    """Row ids → Batch; picklable, so that worker processes can run it."""

    images: ImageSource
    labels: Int32[np.ndarray, "n l"]
    augment: Augment | None
    on_corrupt: str
    resample: Float32[np.ndarray, "n l"] | None = None

    def __call__(self, element: dict[str, np.ndarray]) -> Batch:
        rows = np.asarray(element["row"], np.int32)
        if isinstance(self.images, np.ndarray):
            pixels = self.images[rows]
        else:
            read = [self._read(int(row)) for row in rows]
            rows = np.array([row for row, _ in read], np.int32)
            pixels = np.stack([image for _, image in read])
        image = to_unit(pixels)
        if self.augment is not None:
            draws = [np.random.default_rng(int(draw)) for draw in element["draw"]]
            image = np.stack([self.augment(*pair) for pair in zip(image, draws, strict=True)])
        labels = self.labels[rows]
        if self.resample is not None:
            labels = _drawn(labels, self.resample[rows], element["draw"])
        return Batch(image.astype(np.float32, copy=False), labels, rows)

    def _read(self, row: int) -> tuple[int, np.ndarray]:
        """The row's image, or the next readable row's where skipping is allowed."""
        num = len(self.images)
        for other in (*range(row, num), *range(row)):
            try:
                return other, self.images[other]
            except CorruptImageError:
                if self.on_corrupt == "error":
                    raise
        raise CorruptImageError("No image of the data set can be decoded; check the folder.")


def _drawn(
    labels: Int32[np.ndarray, "b l"], chance: Float32[np.ndarray, "b l"], draws: np.ndarray
) -> Int32[np.ndarray, "b l"]:
    """Tokens with a chance become "positive" with that chance, else "negative".

    The generator is the position's own and not the one that augments the image, so that
    resampling changes no pixel.
    """
    labels = labels.copy()
    for row, draw in enumerate(draws):
        open_slots = np.flatnonzero(~np.isnan(chance[row]))
        if len(open_slots):
            uniform = np.random.default_rng([int(draw), _LABEL_STREAM]).random(len(open_slots))
            positive = uniform < chance[row, open_slots]
            labels[row, open_slots] = np.where(positive, POSITIVE, NEGATIVE) + 1
    return labels


def make_batches(
    images: UInt8[np.ndarray, "n h w c"] | ImageSource,
    labels: Int32[np.ndarray, "n l"],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    repeats: Int[np.ndarray, " n"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
    positions: Places | None = None,
    num_workers: int = 0,
    augment: Augment | None = None,
    on_corrupt: Literal["error", "skip"] = "error",
    resample: Float32[np.ndarray, "n l"] | None = None,
) -> Iterator[Batch]:
    """Endless batches of this process's share of the global batch.

    Args:
        images: Bytes in memory, or a source that decodes on read.
        labels: Token ids, one row per image.
        batch_size: Size of the GLOBAL batch.
        seed: Decides the order and the augmentation draws.
        start_step: The step whose batch comes first (for resuming).
        repeats: How often each row stands in one epoch (planted duplicates).
        weights: Sampling weights: an epoch is then n draws with replacement.
        positions: The places of the global batch that this process needs (see
            :func:`memjax.core.mesh.my_rows`); all of them by default.
        num_workers: Worker processes that decode; 0 decodes in threads of this process.
        augment: ``(image in [-1, 1], generator) → image``; the generator is the row's own.
        on_corrupt: ``error`` stops at an image that cannot be decoded; ``skip`` takes
            the next readable row in its place (``row`` says which).
        resample: Chance that a finding's token is drawn as "positive" (else "negative"), anew each
            time its row is read; NaN keeps the token. See
            :func:`memjax.data.labels.uncertainty.resample_table`.

    Returns:
        An iterator of :class:`Batch` with ``image`` float32 in [-1, 1].

    Raises:
        ValueError: Lengths or sizes do not fit together.
    """
    _check(images, labels, batch_size, positions, start_step)
    _check_resample(resample, labels)
    if on_corrupt not in ("error", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; expected 'error' or 'skip'.")
    order = row_order(len(labels), seed, repeats, weights)
    mine = _share(order, batch_size, start_step, positions)
    fetch = _Fetch(images, np.asarray(labels, np.int32), augment, on_corrupt, resample)
    batches = mine.map(fetch)
    decoding = not isinstance(images, np.ndarray)
    return iter(_iterable(batches, num_workers, decoding))


def _share(
    order: grain.MapDataset,
    batch_size: int,
    start_step: int,
    positions: Places | None,
) -> grain.MapDataset:
    """Returns this process's draws of each global batch."""
    batches = order[start_step * batch_size :].batch(batch_size)
    return batches if positions is None else batches.map(_Take(np.asarray(positions)))


class _Take(NamedTuple):
    positions: np.ndarray

    def __call__(self, element: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values[self.positions] for name, values in element.items()}


def _check(
    images: ImageSource,
    labels: np.ndarray,
    batch: int,
    positions: Places | None,
    start: int,
) -> None:
    if len(images) != len(labels) or not len(labels):
        raise ValueError(f"There are {len(images)} images for {len(labels)} rows of labels.")
    if isinstance(images, np.ndarray) and images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}; expected uint8 (see images.to_uint8).")
    if batch < 1:
        raise ValueError(f"batch_size is {batch}; expected at least 1.")
    if positions is not None and (
        not len(positions) or min(positions) < 0 or max(positions) >= batch
    ):
        raise ValueError(
            f"positions are {list(positions)[:5]}...; expected places in a batch of {batch}."
        )
    if start < 0:
        raise ValueError(f"start_step is {start}; expected a step of at least 0.")


def _check_resample(resample: np.ndarray | None, labels: np.ndarray) -> None:
    if resample is None:
        return
    if resample.shape != np.shape(labels):
        raise ValueError(
            f"resample has shape {resample.shape} for labels of shape {np.shape(labels)}; give one "
            "chance (or NaN) a token."
        )
    chances = resample[~np.isnan(resample)]
    if ((chances < 0) | (chances > 1)).any():
        raise ValueError(
            f"resample holds {chances[(chances < 0) | (chances > 1)][0]}; expected chances from 0 "
            "to 1, or NaN for tokens that stay."
        )


def _iterable(batches: grain.MapDataset, num_workers: int, decoding: bool) -> grain.IterDataset:
    # Grain's own default keeps 500 elements ahead, and an element is a whole batch here.
    threads = min(8, os.cpu_count() or 1) if decoding else 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    stream = batches.to_iter_dataset(options)
    if num_workers:
        _mark_flags_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return stream


def _mark_flags_parsed() -> None:
    """Grain ≤ 0.2.18 reads absl flags when it starts workers and fails where none were parsed."""
    flags = sys.modules.get("absl.flags")
    if flags is not None and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

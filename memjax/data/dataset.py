"""A data set that fits in memory: decoded once, kept as bytes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt8

from memjax.data.duplication import content_groups
from memjax.data.images import Square, load_image
from memjax.data.labels.space import LabelSpace
from memjax.data.records import Record, encode_records


class Dataset(NamedTuple):
    """Rows in the order of ``records``.

    Attributes:
        images: Decoded images.
        labels: Token ids of each row.
        records: Where each row comes from.
        groups: Content group; exact duplicates share one.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, "n l"]
    records: tuple[Record, ...]
    groups: Int[np.ndarray, " n"]


def load_dataset(
    records: Sequence[Record],
    *,
    size: int,
    channels: int = 1,
    label_space: LabelSpace,
    square: Square = "crop",
) -> Dataset:
    """Decode every record; check for corrupt files first (:func:`chexpert.check_images`).

    Raises:
        CorruptImageError: A file cannot be decoded.
        ValueError: There are no records.
    """
    images = load_images(records, size=size, channels=channels, square=square)
    return Dataset(
        images, encode_records(records, label_space), tuple(records), content_groups(images)
    )


def load_images(
    records: Sequence[Record], *, size: int, channels: int = 1, square: Square = "crop"
) -> UInt8[np.ndarray, "n size size channels"]:
    """All images as one array."""
    if not records:
        raise ValueError("There are no records to load; check the folder, the split and filters.")
    images = np.empty((len(records), size, size, channels), np.uint8)
    for row, record in enumerate(records):
        images[row] = load_image(record.path, size, channels, square=square)
    return images

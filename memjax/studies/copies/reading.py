"""Images read once, block by block, as what is compared; a stopped run reads the rest.

Every image is read as a viewer shows it, cut to its central square, turned into grayscale and
resized to 64 pixels: so images of any size and mode can be laid on one another. A file that cannot
be decoded is named and left out.
"""

import collections
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16, Int, UInt8, UInt64

from memjax.data.images import CorruptImageError, load_image, read_image
from memjax.data.pixels import Reading
from memjax.evaluate.features.base import FeatureFn, extract, unit_length
from memjax.runtime.cores import usable_cores
from memjax.studies.copies.folders import ImageFolder
from memjax.studies.store import Store

SIDE, EDGE = 64, 16  # pixels of what is compared: images, and their thumbnails
BLOCK = 4096  # images a part
_FEATURE_BATCH = 64
RULE = (
    "Every image is read upright, cut to its central square, turned into 8-bit grayscale and "
    f"resized to {SIDE}×{SIDE} pixels before it is compared."
)

Progress = Callable[[str, int, int], None]


class ReadImages(NamedTuple):
    """What was read of one folder; row ``i`` is its ``i``-th readable image, by name.

    Attributes:
        folder: The folder.
        number: ``[n]``, each row's place in ``folder.places``.
        thumbnails: ``[n, 256]``, means of 4×4 pixels, in [-1, 1].
        content: ``[n]``, a hash of the 64×64 pixels: equal for images that are the same there.
        problems: Files that could not be read, and why.
        shapes: How many files there are of each size and mode, such as ``128×128 L``.
        notes: What reading changed in how many files.
    """

    folder: ImageFolder
    number: Int[np.ndarray, " n"]
    thumbnails: Float16[np.ndarray, "n d"]
    content: UInt64[np.ndarray, " n"]
    problems: dict[str, str]
    shapes: dict[str, int]
    notes: dict[str, int]

    def place(self, row: int) -> str:
        """Returns a row's path below the folder."""
        return self.folder.places[int(self.number[row])]

    def path(self, row: int) -> str:
        """Returns a row's address."""
        return self.folder.path(int(self.number[row]))


def blocks(count: int) -> list[slice]:
    """Returns ``count`` rows as slices of at most 4,096."""
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def read_images(folder: ImageFolder, store: Store, progress: Progress) -> ReadImages:
    """Reads a folder, block by block, into the store.

    Raises:
        ValueError: If no file of it can be decoded.
    """
    number, thumbs, content = [], [], []
    problems = dict(folder.wrong)
    shapes: collections.Counter[str] = collections.Counter()
    notes: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for part in blocks(len(folder.places)):
            name = f"read-{folder.flag}-{part.start:08d}"
            kept = store.read(name) or _read_block(folder, part, store, name, pool)
            records, arrays = kept
            number.append(arrays["number"])
            thumbs.append(arrays["thumbnails"])
            content.append(arrays["content"])
            problems |= records[0]["problems"]
            shapes.update(records[0]["shapes"])
            notes.update(records[0]["notes"])
            progress(f"reading {folder.flag} images", part.stop, len(folder.places))
    if not sum(map(len, number)):
        place, reason = next(iter(problems.items()))
        store.discard()  # the same command would fail again
        raise ValueError(
            f"none of the {len(folder.places)} files of --{folder.flag}={folder.root} can be "
            f"decoded ({place}: {reason}), expected images: give another folder."
        )
    return ReadImages(
        folder,
        np.concatenate(number),
        np.concatenate(thumbs),
        np.concatenate(content),
        problems,
        dict(shapes.most_common()),
        dict(sorted(notes.items())),
    )


def _read_block(
    folder: ImageFolder, part: slice, store: Store, name: str, pool: ThreadPoolExecutor
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    numbers = range(part.start, part.stop)
    found = list(pool.map(lambda number: _read_one(folder.path(number)), numbers))
    good = [(n, f) for n, f in zip(numbers, found, strict=True) if not isinstance(f, str)]
    problems = {
        folder.places[n]: f for n, f in zip(numbers, found, strict=True) if isinstance(f, str)
    }
    images = np.stack([f[0] for _, f in good]) if good else np.zeros((0, SIDE, SIDE), np.uint8)
    arrays = {
        "number": np.asarray([n for n, _ in good], np.int64),
        "images": images,
        "thumbnails": thumbnails_of(images),
        "content": np.asarray([_hash(image) for image in images], np.uint64),
    }
    shapes = collections.Counter(f"{r.size[0]}×{r.size[1]} {r.mode}" for _, (_, r) in good)
    notes = collections.Counter(note for _, (_, reading) in good for note in reading.notes)
    records = [{"problems": problems, "shapes": dict(shapes), "notes": dict(notes)}]
    store.keep(name, arrays, records)
    return records, arrays


def _read_one(path: str) -> tuple[np.ndarray, Reading] | str:
    """The image and how it was read, or why there is none."""
    try:
        image, reading = read_image(path, SIDE, 1)
        return image[..., 0], reading
    except CorruptImageError as error:
        return error.reason


def _hash(image: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")


def thumbnails_of(images: UInt8[np.ndarray, "n 64 64"]) -> Float16[np.ndarray, "n 256"]:
    """Returns means of squares of 4×4 pixels in [-1, 1], row after row."""
    cell = SIDE // EDGE
    squares = images.reshape(len(images), EDGE, cell, EDGE, cell)
    means = squares.mean(axis=(2, 4), dtype=np.float32) / 127.5 - 1.0
    return means.reshape(len(images), EDGE * EDGE).astype(np.float16)


def kept_images(read: ReadImages, store: Store) -> Iterator[np.ndarray]:
    """Yields the 64×64 pixels of a folder's rows, block after block.

    Raises:
        ValueError: If a part has been taken away meanwhile.
    """
    for part in blocks(len(read.folder.places)):
        kept = store.read(f"read-{read.folder.flag}-{part.start:08d}")
        if kept is None:
            raise ValueError(
                f"a part of {store.folder} was taken away while it was needed: start the same "
                "command again."
            )
        yield kept[1]["images"]


def read_features(
    feature: FeatureFn, key: str, side: int, read: ReadImages, store: Store, progress: Progress
) -> Float16[np.ndarray, "n d"]:
    """Returns a network's unit rows of a folder's readable images, block by block.

    Args:
        feature: The network.
        key: Its short name.
        side: Pixels at which images are read for it, in color.
        read: The images.
        store: Where rows are kept.
        progress: Told how far it is.
    """
    rows = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for part in blocks(len(read.number)):
            name = f"features-{key}-{read.folder.flag}-{part.start:08d}"
            kept = store.read(name)
            if kept is None:
                values = _features(feature, side, read, part, pool)
                store.keep(name, {"values": values})
            else:
                values = kept[1]["values"]
            rows.append(values)
            progress(f"{key} of {read.folder.flag} images", part.stop, len(read.number))
    return np.concatenate(rows)


def _features(feature, side: int, read: ReadImages, part: slice, pool) -> np.ndarray:
    out = []
    for start in range(part.start, part.stop, _FEATURE_BATCH):
        rows = range(start, min(start + _FEATURE_BATCH, part.stop))
        images = list(pool.map(lambda row: load_image(read.path(row), side, 3), rows))
        pixels = np.stack(images).astype(np.float32) / 127.5 - 1.0
        out.append(unit_length(extract(feature, pixels)).astype(np.float16))
    return np.concatenate(out)

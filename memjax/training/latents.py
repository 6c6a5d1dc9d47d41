"""Images as moments of latents and captions as text embeddings: computed once, kept, and batched.

References:
    Rombach et al. 2022, arXiv 2112.10752, §3.1 (diffusion on the autoencoder's latents).
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from memjax.core.types import Array, Params
from memjax.data.file_tree import content_key
from memjax.data.images import OPENERS, READING, Square, load_image, to_unit
from memjax.data.labels.captions import caption_of
from memjax.data.order import RowDraws, row_draws, row_order
from memjax.data.planted_duplicates import Planted
from memjax.data.records import Record
from memjax.models.clip.text import CLIPText
from memjax.models.vae import AutoencoderKL
from memjax.runtime.array_cache import ProgressFn, cached_array, padded_rows
from memjax.training.state import state_hash

DTYPES = ("float16", "float32")
FOLDER = "latents"
Shown = Callable[[str], ProgressFn]
CAPTION_CHOICES = ("first", "duplicated", "all")
_STREAM = 2


class Tokenizer(Protocol):
    """What is needed of a tokenizer: texts in, ids of one length out."""

    def encode(self, texts: Sequence[str]) -> Any:
        """Returns an object with ``ids`` ``[n, length]`` and ``cut`` ``[n]``."""
        ...


class Captions(NamedTuple):
    """The distinct captions of a data set, and which of them each row may carry.

    Attributes:
        texts: Distinct captions; the first is the null caption, the empty text.
        of_row: Numbers of each row's captions, the usual one first; rows with fewer repeat it.
        counts: How many captions each row has.
    """

    texts: list[str]
    of_row: Int32[np.ndarray, "n k"]
    counts: Int32[np.ndarray, " n"]


def distinct_captions(records: Sequence[Record]) -> Captions:
    """Numbers the captions of all rows in order of appearance; 0 is the null caption.

    A record without a caption is described by its labels.

    Raises:
        ValueError: A record has neither.
    """
    numbers = {"": 0}
    rows = []
    for record in records:
        texts = record.captions or (caption_of(record),)
        if not all(text.strip() for text in texts):
            raise ValueError(
                f"{record.path} has no caption: write NAME.txt beside it, or a 'text' in "
                "metadata.jsonl."
            )
        rows.append([numbers.setdefault(text, len(numbers)) for text in texts])
    count = np.array([len(row) for row in rows], np.int32)
    of_row = np.array([row + row[:1] * (int(count.max()) - len(row)) for row in rows], np.int32)
    return Captions(list(numbers), of_row, count)


def cache_embeddings(
    folder: str | os.PathLike[str],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    text: CLIPText,
    params: Params,
    *,
    dtype: str = "float16",
    batch_size: int = 32,
    progress: ProgressFn | None = None,
) -> tuple[Float[np.ndarray, "m l d"], int]:
    """Encodes every caption, unless that is done already.

    Args:
        folder: Where the cache lies.
        texts: Distinct captions, the null caption first.
        tokenizer: Texts → ids.
        text: The text tower.
        params: Its weights.
        dtype: Stored type, one of :data:`DTYPES`.
        batch_size: Captions encoded at a time.
        progress: Called with (captions done, in all).

    Returns:
        The embeddings, and how many captions were too long and cut.
    """
    tokens = tokenizer.encode(list(texts))
    ids = np.asarray(tokens.ids, np.int32)

    def compute(start: int, stop: int) -> np.ndarray:
        rows = padded_rows(ids[start:stop], batch_size)
        return np.asarray(_embed(text, params, rows))[: stop - start]

    embeddings = cached_array(
        folder,
        "embeddings",
        compute,
        num=len(ids),
        item_shape=(ids.shape[1], text.config.hidden_size),
        dtype=dtype,
        fingerprint={
            "text_encoder": state_hash(params),
            "captions": hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest(),
        },
        block=batch_size,
        progress=progress,
    )
    return embeddings, int(np.count_nonzero(np.asarray(tokens.cut)))


@functools.partial(jax.jit, static_argnums=0)
def _embed(text: CLIPText, params: Params, ids: Array) -> Array:
    features: Any = text.apply({"params": params}, ids)
    return features.hidden


class LatentData(NamedTuple):
    """A data set as fine-tuning reads it; both arrays are memory-mapped.

    Attributes:
        moments: Mean and log-variance of each row's latent, unscaled, stacked in channels; a
            second copy holds the flipped images.
        embeddings: Text embeddings of each distinct caption.
        captions: Which embedding belongs to which row.
    """

    moments: Float[np.ndarray, "copies n h w c2"]
    embeddings: Float[np.ndarray, "m l d"]
    captions: Captions


def cache_moments(
    folder: str | os.PathLike[str],
    records: Sequence[Record],
    vae: AutoencoderKL,
    params: Params,
    *,
    size: int,
    square: Square = "crop",
    flip: bool = False,
    dtype: str = "float16",
    batch_size: int = 8,
    progress: ProgressFn | None = None,
) -> Float[np.ndarray, "copies n h w c2"]:
    """Encodes every image, and with ``flip`` its mirror image, unless that is done already.

    Args:
        folder: Where the cache lies.
        records: One a row.
        vae: The autoencoder.
        params: Its weights.
        size: Edge of the images in pixels.
        square: How an image becomes square, see :func:`memjax.data.images.load_image`.
        flip: Whether mirror images are encoded too.
        dtype: Stored type, one of :data:`DTYPES`.
        batch_size: Images encoded at a time.
        progress: Called with (images done, in all).

    Raises:
        ValueError: The size or the type does not fit, or an image cannot be encoded.
    """
    side = latent_side(vae, size)
    if dtype not in DTYPES:
        raise ValueError(f"fine_tune.cache_dtype is {dtype!r}, expected one of {DTYPES}.")
    channels, copies = vae.config.in_channels, 2 if flip else 1

    def pictures(start: int, stop: int) -> np.ndarray:
        read = []
        for item in range(start, stop):
            copy, row = divmod(item, len(records))
            image = load_image(records[row].path, size, channels, square=square)
            read.append(image[:, ::-1] if copy else image)
        return to_unit(np.stack(read))

    def compute(start: int, stop: int) -> np.ndarray:
        images = padded_rows(pictures(start, stop), batch_size)
        return np.asarray(encode_moments(vae, params, images))[: stop - start]

    flat = cached_array(
        folder,
        "moments",
        compute,
        num=copies * len(records),
        item_shape=(side, side, 2 * vae.config.latent_channels),
        dtype=dtype,
        fingerprint={
            "autoencoder": state_hash(params),
            "size": size,
            "square": square,
            "flip": flip,
            "reading": READING,
            "files": _files_key(records),
        },
        block=batch_size,
        progress=progress,
    )
    return flat.reshape(copies, len(records), *flat.shape[1:])


def latent_side(vae: AutoencoderKL, size: int) -> int:
    """Returns the edge of the latents of images of that size.

    Raises:
        ValueError: The autoencoder cannot halve the size evenly.
    """
    factor = vae.config.downscale
    if size < factor or size % factor:
        raise ValueError(
            f"data.size is {size}, expected a multiple of {factor}: so many pixels a side become "
            "one of a latent."
        )
    return size // factor


@functools.partial(jax.jit, static_argnums=0)
def encode_moments(vae: AutoencoderKL, params: Params, images: Array) -> Array:
    """Returns mean and log-variance of each image's latents, one after the other in channels."""
    moments: Any = vae.apply({"params": params}, images, method="encode")
    return jnp.concatenate([moments.mean, moments.log_var], axis=-1)


def _files_key(records: Sequence[Record]) -> str:
    """One hash of every file's content, in the order of the rows."""
    digest = hashlib.sha256()
    for record in records:
        scheme = record.path.partition("://")[0]
        key = record.path if scheme in OPENERS else content_key(record.path)
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


def make_latents(
    workdir: Path,
    records: Sequence[Record],
    base: Any,
    *,
    size: int,
    square: Square,
    flip: bool,
    dtype: str,
    batch_size: int,
    shown: Shown = lambda what: lambda done, total: None,
) -> tuple[LatentData, int]:
    """Computes or reads both caches of a run.

    Args:
        workdir: The run's folder.
        records: One a row.
        base: Has ``vae``, ``vae_params``, ``text``, ``text_params`` and ``tokenizer``.
        size: Edge of the images.
        square: See :func:`cache_moments`.
        flip: See :func:`cache_moments`.
        dtype: See :func:`cache_moments`.
        batch_size: See :func:`cache_moments`.
        shown: A label → what is called with (done, in all).

    Returns:
        The data, and how many captions were cut.
    """
    folder, captions = workdir / FOLDER, distinct_captions(records)
    embeddings, cut = cache_embeddings(
        folder,
        captions.texts,
        base.tokenizer,
        base.text,
        base.text_params,
        dtype=dtype,
        progress=shown("captions"),
    )
    moments = cache_moments(
        folder,
        records,
        base.vae,
        base.vae_params,
        size=size,
        square=square,
        flip=flip,
        dtype=dtype,
        batch_size=batch_size,
        progress=shown("images"),
    )
    return LatentData(moments, embeddings, captions), cut


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
        captions: Which caption an example carries where its image has several: ``first``, the
            usual one always (``dup_both`` of the paper); ``duplicated``, one drawn anew for
            duplicated images (``dup_image``); ``all``, one drawn anew for every image (the
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

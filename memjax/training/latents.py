"""Pictures as moments of latents: computed once, and kept beside the captions' embeddings.

References:
    Rombach et al. 2022, arXiv 2112.10752, §3.1 (diffusion on the autoencoder's latents).
"""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.data.file_tree import content_key
from memjax.data.images import OPENERS, READING, Square, load_image, to_unit
from memjax.data.records import Record
from memjax.models.vae import AutoencoderKL
from memjax.runtime.array_cache import ProgressFn, cached_array, padded_rows
from memjax.training.state import state_hash
from memjax.training.text_embeddings import (
    DTYPES,
    Captions,
    cache_embeddings,
    distinct_captions,
)

FOLDER = "latents"
Shown = Callable[[str], ProgressFn]


class LatentData(NamedTuple):
    """A data set as fine-tuning reads it; both arrays are memory-mapped.

    Attributes:
        moments: Mean and log-variance of each row's latent, unscaled, stacked in channels; a
            second copy holds the flipped pictures.
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
    """Encodes every picture, and with ``flip`` its mirror image, unless that is done already.

    Args:
        folder: Where the cache lies.
        records: One a row.
        vae: The autoencoder.
        params: Its weights.
        size: Edge of the pictures in pixels.
        square: How a picture becomes square, see :func:`memjax.data.images.load_image`.
        flip: Whether mirror images are encoded too.
        dtype: Stored type, one of :data:`DTYPES`.
        batch_size: Pictures encoded at a time.
        progress: Called with (pictures done, in all).

    Raises:
        ValueError: The size or the type does not fit, or a picture cannot be encoded.
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
    """Returns the edge of the latents of pictures of that size.

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
    """Returns mean and log-variance of each picture's latents, one after the other in channels."""
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
        size: Edge of the pictures.
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
        progress=shown("pictures"),
    )
    return LatentData(moments, embeddings, captions), cut

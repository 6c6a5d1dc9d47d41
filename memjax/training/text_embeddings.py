"""Captions as text embeddings: each distinct one computed once and kept."""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int32

from memjax.core.types import Array, Params
from memjax.data.captions import caption_of
from memjax.data.records import Record
from memjax.models.clip_text import CLIPText
from memjax.runtime.array_cache import ProgressFn, cached_array, padded_rows
from memjax.training.state import state_hash

DTYPES = ("float16", "float32")


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

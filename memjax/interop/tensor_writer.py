"""Writes a safetensors file tensor by tensor, hashing as it goes: no second copy of the weights.

References:
    The safetensors format: eight bytes of header length, a JSON header, the tensors without gaps.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from memjax.core.types import Params
from memjax.interop.layout import Place, places
from memjax.interop.progress import Told

_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def write_tensors(
    path: Path,
    params: Params,
    linear_projection: bool,
    *,
    prefix: str = "",
    progress: Told = lambda num_bytes: None,
) -> str:
    """Writes a parameter tree in the published layout.

    Args:
        path: The new file.
        params: The tree, of one floating dtype.
        linear_projection: See :func:`memjax.interop.layout.places`.
        prefix: Put before every name.
        progress: Told the bytes of each tensor written.

    Returns:
        The file's sha256.
    """
    leaves = jax.tree.leaves(params)
    kept = sorted(
        zip(places(params, linear_projection), leaves, strict=True), key=lambda pair: pair[0].name
    )
    head = _header([place for place, _ in kept], [_code(leaf) for _, leaf in kept], prefix)
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        digest.update(head)
        file.write(head)
        for place, leaf in kept:
            data = place.to_theirs(np.asarray(leaf)).reshape(-1).view(np.uint8).data
            digest.update(data)
            file.write(data)
            progress(data.nbytes)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _code(leaf: np.ndarray) -> tuple[str, int]:
    name = str(leaf.dtype)
    if name not in _CODES:
        raise ValueError(f"a parameter has dtype {name}, expected one of {', '.join(_CODES)}.")
    return _CODES[name], leaf.dtype.itemsize


def _header(kept: Sequence[Place], codes: Sequence[tuple[str, int]], prefix: str) -> bytes:
    entries: dict[str, Mapping] = {"__metadata__": {"format": "pt"}}
    start = 0
    for place, (code, size) in zip(kept, codes, strict=True):
        end = start + size * int(np.prod(place.foreign_shape, dtype=np.int64))
        shape = list(place.foreign_shape)
        entries[prefix + place.name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

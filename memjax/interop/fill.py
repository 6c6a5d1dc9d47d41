"""Stored tensors → a parameter tree, one tensor at a time."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.names import DTYPES
from memjax.core.types import Params
from memjax.interop.layout import Place, places
from memjax.interop.progress import Told
from memjax.interop.weight_files import EIGHTHS, FLOATS, Stored, WeightFiles, printable

_MOST_LISTED = 12


class Entry(NamedTuple):
    """Where a tensor of ours comes from.

    Attributes:
        stored: Its name in the files.
        part: Which third of the rows (query, key and value in one tensor), or None for all.
    """

    stored: str
    part: int | None = None


def check_dtype(dtype: str) -> None:
    """Refuses dtypes that parameters cannot have."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")


def fill(
    files: WeightFiles,
    entries: Mapping[str, Entry],
    template: Params,
    *,
    linear_projection: bool,
    dtype: str,
    what: str,
    where: str,
    progress: Told = lambda num_bytes: None,
) -> Params:
    """Returns ``template`` with the stored weights, as JAX arrays.

    One tensor is read, brought into our axes and into ``dtype``, handed to JAX and dropped before
    the next.

    Args:
        files: The open files.
        entries: Key as diffusers and transformers name it → tensor in the files.
        template: Parameter tree of the right shapes.
        linear_projection: See :func:`memjax.interop.layout.places`.
        dtype: Dtype of the parameters.
        what: Name of the network, for messages.
        where: Name of the file or folder, for messages.
        progress: Told the bytes of each tensor read.

    Raises:
        ValueError: Lists every tensor that is missing, left over, of another shape or dtype; or
            that has values which are no numbers, or too large for ``dtype``.
    """
    wanted = places(template, linear_projection)
    _check(files.stored, entries, wanted, what, where)
    order = {name: k for k, name in enumerate(files.stored)}
    sequence = sorted(range(len(wanted)), key=lambda k: order[entries[wanted[k].name].stored])
    leaves: list[Any] = [None] * len(wanted)
    broken = []
    for k in sequence:
        entry = entries[wanted[k].name]
        leaves[k], finite = _leaf(files.read(entry.stored), entry.part, wanted[k], dtype)
        broken += [] if finite else [entry.stored]
        progress(_num_bytes(files.stored[entry.stored], entry.part))
    files.close()
    if broken:
        raise ValueError(
            f"The weights of {what} in {where} have values that are infinite, no numbers or too "
            f"large for {dtype}: {listed(broken)}; fetch them again or choose another dtype."
        )
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaf(array: np.ndarray, part: int | None, place: Place, dtype: str) -> tuple[jax.Array, bool]:
    """Brings a tensor into its dtype and our axes; each form is dropped when the next is there."""
    # A number too large for float16 becomes infinite, which is reported by name.
    with np.errstate(over="ignore", invalid="ignore"):
        array = _third(array, part).astype(jnp.dtype(dtype), copy=False)
    array = np.ascontiguousarray(place.to_ours(array)).reshape(place.shape)
    leaf = jax.block_until_ready(jax.device_put(array))
    return leaf, bool(np.isfinite(array).all())


def _third(array: np.ndarray, part: int | None) -> np.ndarray:
    if part is None:
        return array
    rows = array.shape[0] // 3
    return array[part * rows : (part + 1) * rows]


def _num_bytes(tensor: Stored, part: int | None) -> int:
    return tensor.num_bytes // (1 if part is None else 3)


def _shape(tensor: Stored, part: int | None) -> tuple[int, ...]:
    if part is None or not tensor.shape or tensor.shape[0] % 3:
        return tensor.shape
    return (tensor.shape[0] // 3, *tensor.shape[1:])


def _check(
    stored: Mapping[str, Stored],
    entries: Mapping[str, Entry],
    wanted: Sequence[Place],
    what: str,
    where: str,
) -> None:
    names = {place.name for place in wanted}
    missing = [place.name for place in wanted if place.name not in entries]
    extra = [entry.stored for name, entry in entries.items() if name not in names]
    shapes, dtypes = [], []
    for place in wanted:
        if place.name in entries:
            tensor = stored[entries[place.name].stored]
            shape = _shape(tensor, entries[place.name].part)
            if not place.fits(shape):
                shapes.append(f"{place.name} {_numbers(shape)} for {_numbers(place.foreign_shape)}")
            if tensor.dtype not in FLOATS:
                dtypes.append(f"{place.name} {tensor.dtype}")
    eighths = sorted({stored[e.stored].dtype for e in entries.values()} & set(EIGHTHS))
    if eighths:
        raise ValueError(
            f"The weights of {what} in {where} are quantized to 8 bits ({', '.join(eighths)}), too "
            "coarse for what is measured here, which is not supported; fetch the model in float16, "
            "bfloat16 or float32."
        )
    found = {
        "lacks": missing,
        "has besides": list(dict.fromkeys(extra)),
        "has misshapen": shapes,
        "has in a dtype that weights do not have": dtypes,
    }
    phrases = [f"it {verb} {listed(names)}" for verb, names in found.items() if names]
    if phrases:
        raise ValueError(
            f"The weights in {where} are not those of {what} as its settings describe it: "
            f"{'; '.join(phrases)}; fetch weights and settings of one model."
        )


def _numbers(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) if shape else "a number"


def listed(names: Sequence[str]) -> str:
    """Returns names for a message: up to twelve of them, then how many more."""
    text = ", ".join(printable(name, 120) for name in names[:_MOST_LISTED])
    more = len(names) - _MOST_LISTED
    return f"{text} and {more} more" if more > 0 else text


def plain_entries(stored: Mapping[str, Stored], part: str) -> dict[str, Entry]:
    """Returns the entries of one part of a diffusers folder, of any age.

    Text encoders: with or without ``text_model.``; ``position_ids`` are a constant and dropped.
    Autoencoders: attention under its old names (``query``, …, ``proj_attn``) and its new ones.
    """
    rename = {"text_encoder": _text_name, "vae": _vae_name}.get(part, lambda name: name)
    found: dict[str, Entry] = {}
    for name in stored:
        ours = rename(name)
        if ours is not None:
            found[f"{name} again" if ours in found else ours] = Entry(name)
    return found


def _text_name(name: str) -> str | None:
    name = name.removeprefix("text_model.")
    return None if name == "embeddings.position_ids" else name


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _vae_name(name: str) -> str:
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)",
        lambda match: match[1] + _OLD_ATTENTION[match[2]],
        name,
    )

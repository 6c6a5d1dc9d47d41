"""Where each weight of CLIP's two towers lies in a published state dict.

Two layouts: transformers' (one tensor a weight) and open_clip's (query, key and value fused in one
tensor, projections stored the other way round). Both are read in the direction from our parameters
to the file, so that what is wrong is said in the file's own names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.types import Params
from memjax.interop.layout import foreign_name
from memjax.interop.torch.state_dict import Path, complain
from memjax.interop.weight_files import FLOATS, WeightFiles

PROJECTIONS = ("text_projection", "visual_projection")
FUSED = ("q_proj", "k_proj", "v_proj")
IGNORED = (r"(.*\.)?position_ids", r"logit_(scale|bias)")
OPEN_CLIP_IGNORED = (r"(.*\.)?attn_mask", "input_resolution", "context_length", "vocab_size")


class Place(NamedTuple):
    """Where a weight lies.

    Attributes:
        key: Name of the tensor in the file.
        third: Which third of it along the first axis (query, key, value), or None for all of it.
        as_is: Whether a matrix is stored in our axes.
    """

    key: str
    third: int | None = None
    as_is: bool = False


Layout = Callable[[str, list[str]], Place]  # tower ("text" or "vision"), path of our parameter


def transformers_layout(tower: str, path: list[str]) -> Place:
    """``text_model.encoder.layers.0.…``, ``visual_projection.weight``."""
    name = foreign_name(path)
    return Place(name if path[0] in PROJECTIONS else f"{tower}_model.{name}", None, _is_table(path))


_OPEN_CLIP = (
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^visual_projection\.weight$", "proj"),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.[qkv]_proj\.(\w+)$", r".attn.in_proj_\1"),
)


def open_clip_layout(prefix: str = "") -> Layout:
    """``visual.transformer.resblocks.0.attn.in_proj_weight``; ``prefix`` is of the text's keys."""

    def layout(tower: str, path: list[str]) -> Place:
        name = foreign_name(path)
        for pattern, published in _OPEN_CLIP:
            name = re.sub(pattern, published, name)
        fused = [k for k, part in enumerate(FUSED) if path[-2:-1] == [f"self_attn.{part}"]]
        as_is = path[0] in PROJECTIONS or _is_table(path)
        start = "visual." if tower == "vision" else prefix
        return Place(start + name, fused[0] if fused else None, as_is)

    return layout


def _is_table(path: list[str]) -> bool:
    return path[-1] == "embedding"


def fill_towers(
    path: Path,
    towers: Mapping[str, Any],
    files: WeightFiles,
    layout: Layout,
    ignored: Iterable[str],
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Params]:
    """Puts each weight of a state dict in its place in the towers' parameter trees.

    Args:
        path: The file, for messages.
        towers: The Flax modules under ``text`` and ``vision``.
        files: The weights; nothing is read before every name and shape is right.
        layout: Where each of our parameters lies.
        ignored: Patterns of keys that are left out.
        renamed: The layout's names of the tensors, where the file has others: file → layout.

    Returns:
        float32 NumPy arrays.

    Raises:
        ValueError: Keys are missing, left over or of another shape; all are listed.
    """
    there = {(renamed or {}).get(key, key): key for key in files.stored}
    templates = {tower: _template(tower, module) for tower, module in towers.items()}
    wanted = {tower: _places(tower, layout, tree) for tower, tree in templates.items()}
    _compare(path, files, there, [place for places in wanted.values() for place in places], ignored)
    filled, broken = {}, []
    for tower, places in wanted.items():
        weights = [_read(place, files, there[place[0].key]) for place in places]
        pairs = zip(places, weights, strict=True)
        broken += [there[place.key] for (place, _), w in pairs if not np.isfinite(w).all()]
        filled[tower] = jax.tree.unflatten(jax.tree.structure(templates[tower]), weights)
    files.close()
    complain(path, "this CLIP model", **{"has infinite values or no numbers in": broken})
    return filled


def _template(tower: str, module: Any) -> Params:
    """Returns the shapes of a tower's parameters."""
    size = getattr(module.config, "image_size", 1)
    shape = (1, 1) if tower == "text" else (1, size, size, module.config.num_channels)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32 if tower == "text" else jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]


Wanted = tuple[Place, tuple[int, ...]]  # with the shape of our parameter


def _places(tower: str, layout: Layout, template: Params) -> list[Wanted]:
    leaves = jax.tree_util.tree_leaves_with_path(template)
    paths = [[str(entry.key) for entry in path] for path, _ in leaves]
    return [
        (layout(tower, path), leaf.shape) for path, (_, leaf) in zip(paths, leaves, strict=True)
    ]


def _compare(
    path: Path,
    files: WeightFiles,
    there: Mapping[str, str],
    wanted: Iterable[Wanted],
    ignored: Iterable[str],
) -> None:
    shapes = {place.key: _file_shape(place, shape) for place, shape in wanted}
    skip = re.compile("|".join(ignored))
    missing = [key for key in shapes if key not in there]
    extra = [there[key] for key in there if key not in shapes and not skip.fullmatch(key)]
    twice = [key for key in files.stored if key not in set(there.values())]
    stored = {there[key]: (files.stored[there[key]], shapes[key]) for key in shapes if key in there}
    misshapen = [f"{key} {t.shape} for {s}" for key, (t, s) in stored.items() if t.shape != s]
    dtypes = [f"{key} {t.dtype}" for key, (t, _) in stored.items() if t.dtype not in FLOATS]
    found = {
        "has besides": extra + twice,
        "has misshapen": misshapen,
        "has in a dtype that weights do not have": dtypes,
    }
    complain(path, "this CLIP model", lacks=missing, **found)


def _file_shape(place: Place, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of our parameter → shape of the tensor it is read from."""
    if len(shape) == 4:
        shape = (shape[3], shape[2], *shape[:2])
    elif len(shape) == 2 and not place.as_is:
        shape = shape[::-1]
    return shape if place.third is None else (3 * shape[0], *shape[1:])


def _read(wanted: Wanted, files: WeightFiles, key: str) -> np.ndarray:
    place, shape = wanted
    weight = files.read(key)
    if place.third is not None:
        weight = np.split(weight, 3)[place.third]
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape))
    if axes is not None and not place.as_is:
        weight = weight.transpose(axes)
    return np.ascontiguousarray(weight, np.float32).reshape(shape)

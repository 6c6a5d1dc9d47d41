"""A run's weights alone, in one safetensors file that any framework reads."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save

from memjax.core.types import Params
from memjax.runtime.files import write_bytes
from memjax.runtime.json import dumps
from memjax.training.sharding import leaf_path


def export_params(params: Params, path: str | os.PathLike[str], about: Mapping[str, Any]) -> Path:
    """Writes weights under names joined by slashes; the file appears whole or not at all.

    Args:
        params: The weights; float32, or as they are.
        path: File to write, ``.safetensors``.
        about: JSON-able; kept in the file's header under ``memjax``.

    Raises:
        ValueError: The name does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file: give such a name.")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tensors = {leaf_path(names): np.ascontiguousarray(leaf) for names, leaf in leaves}
    header = {"memjax": dumps(dict(about), sort_keys=True, ascii=True)}
    write_bytes(path, save(tensors, metadata=header))
    return path


def import_params(path: str | os.PathLike[str]) -> Params:
    """Returns the weights of :func:`export_params` as nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in load_file(path).items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree

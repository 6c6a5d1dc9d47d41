"""Keeps a trained copy encoder in one file, so that a sweep trains it once per data set."""

import json
import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from memjax.evaluate.features.copy_encoder import CopyEncoder
from memjax.models.copy_encoder import CopyEncoderNetwork

_FORMAT = 1
_HEADER = "memjax"


def save_copy_encoder(path: str | os.PathLike[str], encoder: CopyEncoder) -> None:
    """Writes weights, threshold and calibration as ``.npz``, under a temporary name, then renames.

    Args:
        path: File to write; an existing one is replaced.
        encoder: The trained encoder.
    """
    file = Path(path)
    leaves = jax.tree_util.tree_flatten_with_path(encoder.params)[0]
    arrays = {
        "/".join(str(entry.key) for entry in where): np.asarray(leaf) for where, leaf in leaves
    }
    header = {
        "format": _FORMAT,
        "features": encoder.module.features,
        "width": encoder.module.width,
        "name": encoder.name,
        "threshold": encoder.threshold,
        "calibration": encoder.calibration,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    with open(temporary, "wb") as out:
        np.savez(out, allow_pickle=False, **{_HEADER: np.array(json.dumps(header)), **arrays})
    os.replace(temporary, file)


def load_copy_encoder(
    path: str | os.PathLike[str], image_shape: tuple[int, int, int]
) -> CopyEncoder:
    """Reads what :func:`save_copy_encoder` wrote; no pickle is ever executed.

    Args:
        path: The file.
        image_shape: ``(height, width, channels)`` of the pictures it is to be used on.

    Raises:
        ValueError: If the file is not one of ours, or was trained on pictures of another shape.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            header = json.loads(str(stored[_HEADER]))
            arrays = {name: stored[name] for name in stored.files if name != _HEADER}
        module = CopyEncoderNetwork(int(header["features"]), int(header["width"]))
        name, threshold = str(header["name"]), float(header["threshold"])
        calibration = dict(header["calibration"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a saved copy encoder; remove it to train one anew."
        ) from error
    params = _nested(arrays)
    expected = module.init_params(jax.random.key(0), image_shape)
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
        raise ValueError(
            f"{os.fspath(path)} was trained on pictures of another shape than {image_shape}; "
            "remove it to train one anew."
        )
    return CopyEncoder(module, params, name, threshold, calibration)


def _nested(arrays: dict[str, np.ndarray]) -> dict:
    tree: dict = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jnp.asarray(array)
    return tree

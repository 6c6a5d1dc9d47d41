"""Tiny pipelines and their folders, made once."""

import atexit
import functools
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from memjax.interop import save, tiny_pipeline

WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@functools.cache
def tiny(kind: str = "sd1", dtype: str = "float32"):
    return tiny_pipeline(kind, dtype=dtype)


@functools.cache
def _master(kind: str) -> pathlib.Path:
    home = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return save(tiny(kind), home / kind)


def folder(path: pathlib.Path, kind: str = "sd1", *, fingerprints: bool = False) -> pathlib.Path:
    """Copies a tiny pipeline's folder to ``path``, by default without ``memjax.json``."""
    shutil.copytree(_master(kind), path)
    if not fingerprints:
        (path / "memjax.json").unlink()
    return path


def change(path: pathlib.Path, **settings) -> None:
    """Changes settings in a JSON file; None removes nothing, it is written."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def tensors(model: pathlib.Path, part: str) -> dict[str, np.ndarray]:
    return load_file(model / WEIGHTS[part])


def put(model: pathlib.Path, part: str, arrays: dict[str, np.ndarray]) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, model / WEIGHTS[part])


def assert_same(actual, expected) -> None:
    """The same tree with the same bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_sentence(error: BaseException) -> str:
    """One sentence of bounded length, on one line; returns it."""
    message = str(error)
    assert message.endswith(".")
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 12_000
    return message

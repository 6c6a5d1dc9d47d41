"""Small published networks, inputs and weights for the golden test, its generator and parity."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from memjax.interop.torch.state_dict import torch_name
from memjax.models.published.densenet import DenseNet
from memjax.models.published.dinov2 import DINOv2
from memjax.models.published.inception import InceptionV3
from memjax.models.published.sscd import SSCD

CASES = {
    "sscd": (SSCD((1, 2, 1, 1), embedding_dim=32), (64, 72, 3)),
    "sscd_large": (SSCD((2, 1, 1, 1), 32, 4, embedding_dim=48), (64, 64, 3)),
    "xrv": (DenseNet((2, 3, 2, 2), growth=8, first_features=16), (80, 64, 1)),
    "dinov2": (DINOv2(64, 2, 4, 14, grid=5, mlp_size=128), (56, 84, 3)),
    "inception": (InceptionV3(), (96, 107, 3)),
}
BATCH = 2


def template(name: str) -> dict:
    """Returns the parameter tree's shapes."""
    module, shape = CASES[name]
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def inputs(name: str) -> np.ndarray:
    """Returns two images in [-1, 1], the same on every machine."""
    rng = np.random.RandomState(0)  # whose stream is frozen for good, unlike Generator's
    return rng.uniform(-1, 1, (BATCH, *CASES[name][1])).astype(np.float32)


def weights(name: str) -> dict:
    """Returns parameters of a scale that keeps activations of order one, running statistics too.

    Each leaf has a generator of its own, seeded by its name.
    """
    filled = {}
    for path, leaf in traverse_util.flatten_dict(template(name)).items():
        rng = np.random.RandomState(zlib.crc32("/".join(path).encode()))
        draw = rng.uniform(-1, 1, leaf.shape)
        if path[-1] == "kernel":
            draw *= np.sqrt(6 / np.prod(leaf.shape[:-1]))
        elif path[-1] in ("scale", "var", "lambda1"):
            draw = 1.0 + 0.5 * draw
        else:
            draw *= 0.3
        filled[path] = draw.astype(np.float32)
    return traverse_util.unflatten_dict(filled)


def state(name: str) -> dict[str, np.ndarray]:
    """Returns the same weights under the keys and in the layout of the published file."""
    prefix = "backbone." if name.startswith("sscd") else ""
    entries = {}
    for path, leaf in traverse_util.flatten_dict(weights(name)).items():
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, range(leaf.ndim))
        entries[prefix + torch_name(list(path))] = np.ascontiguousarray(leaf.transpose(*axes))
    return entries

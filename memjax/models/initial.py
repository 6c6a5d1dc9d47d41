"""Initial parameters: one rule by leaf name, drawn leaf by leaf or all in one go.

References:
    LeCun et al. 1998, "Efficient BackProp", §4.6 (variance 1/fan-in).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.types import Array, Params


def moments(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Returns the mean and standard deviation from which a leaf of this name is drawn."""
    if name == "kernel":
        return 0.0, 1.0 / math.sqrt(math.prod(shape[:-1]))
    fixed = {"bias": (0.0, 0.0), "scale": (1.0, 0.0), "position": (0.0, 0.02)}
    return fixed.get(name, (0.0, 1.0))


def initializer(name: str) -> nn.initializers.Initializer:
    """Returns the Linen initializer of leaves called ``name``."""

    def draw(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        mean, stddev = moments(name, tuple(shape))
        return mean + stddev * jax.random.normal(key, shape, dtype)

    return draw


def draw_params(module: nn.Module, key: Array, *inputs: Any, zero: tuple[str, ...] = ()) -> Params:
    """Draws a module's whole 'params' tree from one vector of normal numbers.

    The same distribution as ``module.init``, but without compiling the network or one random
    generator a leaf: a hundredth of the time.

    Args:
        module: The module.
        key: A typed key.
        *inputs: What the module is called with; only shapes and dtypes matter.
        zero: Names of submodules whose kernel starts at zero.

    Raises:
        ValueError: Under jit: the numbers are cut on the host.
    """
    if isinstance(key, jax.core.Tracer):
        raise ValueError(
            "init_params was called under jit, expected a concrete key: call it outside, or use "
            "the module's own init."
        )
    shapes = jax.eval_shape(module.init, key, *inputs)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    numbers = np.asarray(jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),)))
    filled, start = [], 0
    for path, leaf in leaves:
        names = [entry.key for entry in path]
        mean, stddev = moments(names[-1], leaf.shape)
        stddev = 0.0 if len(names) > 1 and names[-2] in zero else stddev
        part = numbers[start : start + leaf.size].reshape(leaf.shape)
        filled.append(jnp.asarray(mean + stddev * part, leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(tree, filled)

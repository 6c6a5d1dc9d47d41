"""A PyTorch state dict into the parameter tree of one of our modules, key by key.

Our modules carry PyTorch's names, so a key is a path; what differs is the layout of the axes and
the names of a few leaves.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.types import Params
from memjax.interop.torch.archive import printable

Path = str | os.PathLike[str]
State = Mapping[str, np.ndarray]
COUNTER = r"(.*\.)?num_batches_tracked"
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class Published(NamedTuple):
    """A network and its published weights.

    Attributes:
        module: The Flax module; ``module.apply({"params": params}, images)`` gives features.
        params: Its parameters, float32 NumPy arrays.
    """

    module: Any
    params: Params


def fill_params(
    path: Path,
    network: str,
    module: Any,
    shape: tuple[int, int, int],
    state: State,
    ignored: Iterable[str],
    prefix: str = "",
) -> Published:
    """Puts each weight of a state dict in its place in a module's parameter tree.

    Args:
        path: The file, for messages.
        network: What it should hold, for messages.
        module: The Flax module.
        shape: A height, width and number of channels that it accepts.
        state: The weights, in PyTorch's layout.
        ignored: Patterns of keys that are left out.
        prefix: What was cut from the names in the file.

    Raises:
        ValueError: Keys are missing, left over or of another shape; all are listed.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(_template(path, network, module, shape))
    names = [torch_name([entry.key for entry in place]) for place, _ in leaves]
    skip = re.compile("|".join(ignored))
    missing = [prefix + name for name in names if name not in state]
    extra = [prefix + key for key in state if key not in names and not skip.fullmatch(key)]
    weights: list[np.ndarray] = []
    misshapen = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if name in state:
            weights.append(_flax_layout(state[name], leaf.ndim))
            if weights[-1].shape != leaf.shape:
                misshapen.append(f"{prefix}{name} {state[name].shape} for {leaf.shape} in our axes")
    complain(path, network, lacks=missing, **{"has besides": extra, "has misshapen": misshapen})
    return Published(module, jax.tree.unflatten(tree, weights))


def _template(path: Path, network: str, module: Any, shape: tuple[int, int, int]) -> Params:
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        return jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            f"The file {os.fspath(path)} has weights whose shapes fit no {network}; give the file "
            "its authors publish."
        ) from error


def complain(path: Path, network: str, **found: list[str]) -> None:
    """Refuses a state dict that does not fit; ``found`` has lists of keys by what is wrong.

    Raises:
        ValueError: A list is not empty.
    """
    parts = [f"{what} {printable(', '.join(names))}" for what, names in found.items() if names]
    if parts:
        raise ValueError(
            f"The file {os.fspath(path)} does not hold {network}: it {'; it '.join(parts)}; give "
            "the file its authors publish."
        )


def torch_name(place: list[str]) -> str:
    """Path in the parameter tree → key in the state dict."""
    return ".".join([*place[:-1], _LEAVES.get(place[-1], place[-1])])


def _flax_layout(weight: np.ndarray, ndim: int) -> np.ndarray:
    """OIHW → HWIO and OI → IO; float32."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(ndim)
    if axes is not None and weight.ndim == ndim:
        weight = weight.transpose(axes)
    return np.ascontiguousarray(weight, np.float32).reshape(weight.shape)

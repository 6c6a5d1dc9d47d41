"""Does a checkpoint fit a state? Asked before anything is read, and answered by name."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(
        str(getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", entry))))
        for entry in path
    )


def _wanted(state: PyTree) -> dict[str, str]:
    def describe(leaf: Any) -> str:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return "key" if key else f"{leaf.dtype}{list(leaf.shape)}"

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): describe(leaf) for path, leaf in leaves}


def differences(saved: PyTree, state: PyTree) -> list[str]:
    """Returns one ``name: saved, expected`` per leaf that differs in name, dtype or shape.

    Args:
        saved: Orbax's metadata of the checkpoint: leaves with ``name``, ``dtype`` and ``shape``.
        state: Arrays or ``ShapeDtypeStruct``s.
    """
    found = {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(saved)}
    wanted = _wanted(state)
    return [
        f"{name}: saved {found.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
        and not (wanted.get(name) == "key" and found.get(name, "").startswith("uint32"))
    ]

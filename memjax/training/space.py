"""Is there room for a checkpoint? Asked before it is needed."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

_MARGIN = 1.05  # names, manifests, a file system's blocks


def state_bytes(state: PyTree) -> int:
    """Returns the bytes of a state (or of its shapes), all processes together."""

    def size(leaf: Any) -> int:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 16
        return int(leaf.size) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(state))


def require_space(folder: str | os.PathLike[str], state: PyTree, checkpoints: int = 1) -> None:
    """Refuses to start what would fill the disk; buckets have no end and are not asked.

    Args:
        folder: Where checkpoints go; it may not exist yet.
        state: What is saved.
        checkpoints: How many must fit beside each other.

    Raises:
        ValueError: With the bytes that are free and needed.
    """
    if "://" in os.fspath(folder):
        return
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, int(checkpoints * _MARGIN * state_bytes(state))
    if free < needed:
        raise ValueError(
            f"{folder} has {_amount(free)} free, expected at least {_amount(needed)} for "
            f"{checkpoints} checkpoint{'s' if checkpoints > 1 else ''}: free space, or choose "
            "another workdir."
        )


def _amount(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"

"""Parameter trees and published state dicts: names, axes and shapes, one rule for every network.

Our modules carry the published names, so a path in the tree is a key; what differs is how lists of
blocks are written (``resnets_0`` for ``resnets.0``), the names of a few leaves and the order of the
axes (``[in, out]`` and ``[h, w, in, out]`` here, ``[out, in]`` and ``[out, in, h, w]`` there).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax.core.types import Params

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_NUMBERED = re.compile(r"(blocks|resnets|attentions|samplers|to_out|net)_(\d+)(?=_|\.|$)")
_POINTWISE = re.compile(r"(.*\.)?(conv_shortcut|quant_conv|post_quant_conv)\.weight")
_PROJECTION = re.compile(r"(.*\.)?attentions\.\d+\.proj_(in|out)\.weight")


class Place(NamedTuple):
    """One leaf of a parameter tree and its counterpart in a state dict.

    Attributes:
        name: Key in the state dict.
        leaf: Name of the leaf in the tree, which decides the axes.
        shape: Shape in the tree.
        foreign_shape: Shape in the state dict, as it is written.
    """

    name: str
    leaf: str
    shape: tuple[int, ...]
    foreign_shape: tuple[int, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        """Says whether a stored tensor has this leaf's shape; 1×1 convolutions are matrices."""
        return _squeezed(shape) == _squeezed(self.foreign_shape)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Stored tensor → leaf, as a view where possible."""
        if self.leaf != "kernel":
            return array.reshape(self.shape)
        if len(self.shape) == 2:
            return array.reshape(array.shape[:2]).T
        return array.reshape(self.foreign_shape).transpose(2, 3, 1, 0)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Leaf → stored tensor, C-contiguous."""
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim) if self.leaf == "kernel" else None
        array = array if axes is None else array.transpose(axes)
        return np.ascontiguousarray(array.reshape(self.foreign_shape))


def places(template: Params, linear_projection: bool = True) -> list[Place]:
    """Returns the place of every leaf, in the order of ``jax.tree.leaves``.

    Args:
        template: A parameter tree; only paths and shapes matter.
        linear_projection: Whether the projections around a transformer are stored as matrices
            (Stable Diffusion 2) or as 1×1 convolutions (1).
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(template):
        keys = [str(entry.key) for entry in path]
        name = foreign_name(keys)
        stored = _foreign_shape(name, keys[-1], tuple(leaf.shape), linear_projection)
        found.append(Place(name, keys[-1], tuple(leaf.shape), stored))
    return found


def foreign_name(path: Sequence[str]) -> str:
    """``(…, "resnets_0", "conv1", "kernel")`` → ``"….resnets.0.conv1.weight"``."""
    *modules, leaf = path
    name = _NUMBERED.sub(r"\1.\2", ".".join(modules))
    name = re.sub(r"(samplers\.0)_conv", r"\1.conv", name).replace("net.0_proj", "net.0.proj")
    return ".".join([*([name] if name else []), _LEAVES.get(leaf, leaf)])


def _foreign_shape(
    name: str, leaf: str, shape: tuple[int, ...], linear_projection: bool
) -> tuple[int, ...]:
    if leaf != "kernel":
        return shape
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    pointwise = _POINTWISE if linear_projection else (_POINTWISE, _PROJECTION)
    patterns: Any = pointwise if isinstance(pointwise, tuple) else (pointwise,)
    convolution = any(pattern.fullmatch(name) for pattern in patterns)
    return (shape[1], shape[0], *((1, 1) if convolution else ()))


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape

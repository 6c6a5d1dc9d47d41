"""Low-rank adapters: ``W + (α/r) A B`` beside frozen weights, as pure functions on parameter trees.

References:
    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, §4.1.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.names import ATTENTION
from memjax.core.types import Array, Params


class LowRank(NamedTuple):
    """One adapter: ``A [in, r]`` and ``B [r, out]``; ``B`` starts at zero."""

    a: Float[Array, "i r"]
    b: Float[Array, "r o"]


def init_lora(key: Array, params: Params, rank: int, targets: str = ATTENTION) -> Params:
    """Draws the adapters of every kernel whose path matches.

    ``A ~ N(0, 1/in)`` and ``B = 0``, so that the merged weights are the frozen ones at the start.

    Args:
        key: A typed key.
        params: The frozen tree (nested mappings); only paths and shapes matter.
        rank: r, at least 1 and at most the smaller side of every kernel it stands beside.
        targets: Regular expression, searched in paths such as
            ``down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k/kernel``.

    Returns:
        A tree of the same nesting that holds a :class:`LowRank` where a kernel matched, and nothing
        elsewhere.

    Raises:
        ValueError: If nothing matches, a match is no matrix, or the rank does not fit.
    """
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ValueError(
            f"targets is {targets!r}, which is no regular expression ({error}): the usual one is "
            f"{ATTENTION!r}."
        ) from error
    shapes = {path: leaf.shape for path, leaf in _leaves(params, "") if pattern.search(path)}
    if not shapes:
        raise ValueError(
            f"targets={targets!r} matches no weight, expected a regular expression for paths such "
            f"as {next((path for path, _ in _leaves(params, '')), '(none)')!r}."
        )
    tree: dict[str, Any] = {}
    for number, (path, shape) in enumerate(sorted(shapes.items())):
        _put(tree, path.split("/"), _draw(jax.random.fold_in(key, number), path, shape, rank))
    return tree


def _draw(key: Array, path: str, shape: tuple[int, ...], rank: int) -> LowRank:
    if len(shape) != 2:
        raise ValueError(
            f"targets match {path!r} of shape {shape}, expected matrices only: narrow the "
            "expression."
        )
    if not 1 <= rank <= min(shape):
        raise ValueError(f"rank is {rank}, expected 1 to {min(shape)} for {path!r} of {shape}.")
    a = jax.random.normal(key, (shape[0], rank), jnp.float32) / math.sqrt(shape[0])
    return LowRank(a, jnp.zeros((rank, shape[1]), jnp.float32))


def merge_lora(params: Params, lora: Params, scale: Array | float) -> Params:
    """Returns ``W + scale · A B`` where there is an adapter, and ``W`` itself elsewhere.

    Args:
        params: The frozen tree.
        lora: Of :func:`init_lora`.
        scale: ``α / r``.

    Returns:
        A tree like ``params``; sums are taken in float32 and cast back to the kernel's dtype.

    Raises:
        ValueError: If an adapter has no kernel to stand beside.
    """
    if isinstance(lora, LowRank):
        update = scale * jnp.dot(lora.a, lora.b, precision="highest")
        return (params.astype(jnp.float32) + update).astype(params.dtype)
    missing = [name for name in lora if name not in params]
    if missing:
        raise ValueError(
            f"the adapters name {missing[0]!r}, which the weights do not have "
            f"({sorted(params)[:5]} ...): they belong to another network."
        )
    return {
        name: merge_lora(child, lora[name], scale) if name in lora else child
        for name, child in params.items()
    }


def _leaves(tree: Any, prefix: str):
    if not isinstance(tree, Mapping):
        yield prefix, tree
        return
    for name, child in tree.items():
        yield from _leaves(child, f"{prefix}/{name}" if prefix else name)


def _put(tree: dict[str, Any], names: list[str], leaf: LowRank) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = leaf

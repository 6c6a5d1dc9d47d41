"""A batch taken in parts, one after the other: the same gradient with less memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from memjax.core.mesh import ROW_AXES
from memjax.core.types import Array, Params

# (params, part) -> (sum of weighted losses, (what the sum is divided by, per-example results))
PartFn = Callable[[Params, Any], tuple[Array, tuple[Array, PyTree]]]


def split_rows(tree: PyTree, parts: int, mesh: Mesh | None = None) -> PyTree:
    """Returns ``[b, ...]`` as ``[parts, b / parts, ...]``; part j holds rows j, j + parts, ...

    Strided, so that every device finds its share of each part among the rows it already has.
    """

    def split(leaf: Array) -> Array:
        grouped = leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return grouped
        spec = PartitionSpec(None, ROW_AXES)
        return jax.lax.with_sharding_constraint(grouped, NamedSharding(mesh, spec))

    return jax.tree.map(split, tree)


def join_rows(tree: PyTree) -> PyTree:
    """Undoes :func:`split_rows`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def accumulate(
    part_fn: PartFn, params: Params, batch: PyTree, parts: int, mesh: Mesh | None = None
) -> tuple[Float[Array, ""], PyTree, PyTree]:
    """Returns ``Σ_j sum_j / max(Σ_j count_j, 1)``, its gradient, and the per-example results.

    The count must not depend on ``params``: the gradient is that of the sums, divided at the end.

    Args:
        part_fn: See ``PartFn``.
        params: What is differentiated.
        batch: Pytree of arrays with the examples in front.
        parts: How many parts; divides the batch.
        mesh: The devices the rows lie on, if there are several.
    """
    gradient = jax.value_and_grad(part_fn, has_aux=True)

    def body(carry: Any, part: Any) -> tuple[Any, PyTree]:
        total, count, summed = carry
        (value, (share, each)), grads = gradient(params, part)
        return (total + value, count + share, jax.tree.map(jnp.add, summed, grads)), each

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jax.tree.map(jnp.zeros_like, params))
    carry, each = jax.lax.scan(body, start, split_rows(batch, parts, mesh))
    total, count, summed = carry
    count = jnp.maximum(count, 1.0)
    return total / count, jax.tree.map(lambda g: g / count.astype(g.dtype), summed), join_rows(each)

"""A model whose prompts are spread over the devices of a process."""

from collections.abc import Sequence

from jax.sharding import Mesh
from jaxtyping import PyTree

from memjax.core.condition import num_rows
from memjax.core.mesh import place, replicated, row_shards, rows_over
from memjax.core.types import Bundle, Cond, PromptRow


def over_devices(cond: Cond, mesh: Mesh | None) -> PyTree:
    """Spreads the rows of a condition; whole on every device where they do not divide evenly."""
    if mesh is None:
        return cond
    even = num_rows(cond) % row_shards(mesh) == 0
    return place(cond, rows_over(mesh) if even else replicated(mesh))


def spread_bundle(bundle: Bundle, mesh: Mesh | None) -> Bundle:
    """Returns the model with its weights on every device, and conditions spread over them.

    Args:
        bundle: The model.
        mesh: Devices of this process, or None for one device.
    """
    if mesh is None:
        return bundle

    def encode(rows: Sequence[PromptRow]) -> Cond:
        return over_devices(bundle.encode(rows), mesh)

    params, null_cond = place((bundle.params, bundle.null_cond), replicated(mesh))
    return bundle._replace(params=params, null_cond=null_cond, encode=encode)

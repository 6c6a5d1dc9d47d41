"""Attention of many pixels on TPU by JAX's splash kernel, whose scores never leave the chip's core.

For 4096 queries and keys, 8 heads of 40 in bfloat16, the TPU compiler counts 1.1 GB of memory
traffic for XLA's own attention and 0.08 GB for the kernel, with the gradient 4.1 and 0.17 GB; at
1024 × 1024 a third and a fifth, at 256 × 256 no less.

References:
    Dao et al. 2022, arXiv 2205.14135 (scores in blocks, never written); the kernel is JAX's own,
    ``jax.experimental.pallas.ops.tpu.splash_attention``.
"""

import os

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Float

from memjax.core.mesh import AXES, ROW_AXES, TENSOR, row_shards
from memjax.core.types import Array

WORTH = 2**20  # query-key pairs from which the kernel moves less than XLA's own attention
_BLOCKS = (512, 256, 128)


def splash_takes(query: Array, key: Array, mask: Array | None) -> bool:
    """Returns whether the kernel is worth using: bfloat16, no mask, many whole blocks of pixels.

    A kernel is not split over devices by itself, so with several of them a mesh must have been
    announced (:func:`memjax.core.mesh.announced`).

    .. note:: Only with ``MEMJAX_SPLASH_ATTENTION=1``: it has not run on a TPU yet, and compiling
        Stable Diffusion's training step with it has not been seen to end. It has no forward-mode
        derivative.
    """
    if os.environ.get("MEMJAX_SPLASH_ATTENTION", "0") != "1" or mask is not None:
        return False
    n, length = query.shape[1], key.shape[1]
    whole = n % _BLOCKS[-1] == 0 and length % _BLOCKS[-1] == 0
    if not whole or query.dtype != jnp.bfloat16 or n * length < WORTH:
        return False
    alone = jax.default_backend() == "tpu" and jax.device_count() == 1
    return alone if _mesh().empty else _places(query) is not None


def splash(
    query: Float[Array, "b n h d"], key: Float[Array, "b l h d"], value: Float[Array, "b l h d"]
) -> Float[Array, "b n h d"]:
    """Returns ``softmax(q kᵀ / √d) v`` on TPU; ``n`` and ``l`` are multiples of 128."""
    if _mesh().empty:
        return on_one_device(query, key, value)
    places = _places(query)
    run = jax.shard_map(on_one_device, in_specs=(places,) * 3, out_specs=places, check_vma=False)
    return run(query, key, value)


def _mesh() -> jax.sharding.AbstractMesh:
    return jax.sharding.get_abstract_mesh()


def _places(query: Array) -> PartitionSpec | None:
    """Returns where examples and heads lie; None where their numbers do not fit the mesh."""
    mesh = _mesh()
    if not set(AXES) <= set(mesh.axis_names):  # a mesh of the caller's own
        return None
    if query.shape[0] % row_shards(mesh) or query.shape[2] % mesh.shape[TENSOR]:
        return None
    return PartitionSpec(ROW_AXES, None, TENSOR, None)


def on_one_device(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b l h d"],
    value: Float[Array, "b l h d"],
    interpret: bool = False,
) -> Float[Array, "b n h d"]:
    """Runs the kernel on what one device has; ``interpret`` runs it on any platform, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    n, length, heads = query.shape[1], key.shape[1], query.shape[2]
    rows, columns = (next(b for b in _BLOCKS if size % b == 0) for size in (n, length))
    run = kernel.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((n, length))] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        interpret=interpret,
    )
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (query, key, value))
    scaled = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    return jax.vmap(run)(scaled, k, v).transpose(0, 2, 1, 3)

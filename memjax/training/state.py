"""Everything a run is: one pytree, hashed and checkpointed as a whole."""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int, PyTree

from memjax.core.mesh import place
from memjax.core.types import Array, Params
from memjax.training.memorization_filter import FilterRecord, empty_record
from memjax.training.sharding import Sharding


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
        step: Batches consumed; the data position and the noise follow from it.
        params: The weights.
        ema_params: Their moving average.
        opt_state: The optimizer's state.
        key: Typed key of the run; step ``s`` uses ``fold_in(key, s)``.
        filter: Per-row record of the memorization filter, or None.
        updates: Updates applied to the weights; skipped and fully filtered steps do not count.
        skipped: Consecutive steps skipped for a non-finite loss or gradient, 0 after a good one.
        total_skipped: All steps skipped so.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: PyTree
    key: Array
    filter: FilterRecord | None
    updates: Int[Array, ""]
    skipped: Int[Array, ""]
    total_skipped: Int[Array, ""]


def create_state(
    params: Params,
    tx: optax.GradientTransformation,
    key: Array,
    num_rows: int | None = None,
    filter: bool = False,
) -> TrainState:
    """Returns the state at step 0.

    Args:
        params: Initial weights; copied, so that the caller's stay usable when the step donates.
        tx: The optimizer.
        key: A typed key (``jax.random.key``).
        num_rows: Number of training rows; needed with ``filter``.
        filter: Whether to keep the memorization filter's record.

    Raises:
        ValueError: If the key is not a typed scalar key, or ``filter`` comes without ``num_rows``.
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)) or key.ndim:
        raise ValueError("key is not a typed scalar key: make one with jax.random.key(seed).")
    if filter and num_rows is None:
        raise ValueError(
            "filter=True needs num_rows, the number of training rows to keep account of."
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(lambda p: jnp.array(p, copy=True), params),
        ema_params=jax.tree.map(lambda p: jnp.array(p, copy=True), params),
        opt_state=jax.tree.map(lambda x: jnp.array(x, copy=True), tx.init(params)),
        key=jax.random.clone(key),
        filter=empty_record(num_rows) if filter and num_rows is not None else None,
        updates=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        total_skipped=jnp.zeros((), jnp.int32),
    )


def create_sharded_state(
    params: Params,
    tx: optax.GradientTransformation,
    key: Array,
    sharding: Sharding,
    num_rows: int | None = None,
    filter: bool = False,
) -> TrainState:
    """Returns the state of :func:`create_state`, made in parts: no device ever holds it whole.

    Args:
        params: Initial weights on the host, the same in every process.
        tx: The optimizer.
        key: A typed key.
        sharding: Where each leaf lies.
        num_rows: See :func:`create_state`.
        filter: See :func:`create_state`.
    """

    def make(params: Params, key: Array) -> TrainState:
        return create_state(params, tx, key, num_rows, filter)

    parts = place(params, sharding.of(params))
    shardings = sharding.of(jax.eval_shape(make, params, key))
    return jax.jit(make, out_shardings=shardings)(parts, place(key, sharding.whole))


def state_hash(state: PyTree) -> str:
    """Returns the SHA-256 (hex) over every leaf's path, dtype, shape and bytes.

    Equal hashes mean equal bits, typed keys included.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode())
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            digest.update(str(leaf.dtype).encode())
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

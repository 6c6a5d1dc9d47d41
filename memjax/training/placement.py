"""A run spread over devices and processes: one object that a single device needs nothing of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Int, PyTree

from memjax.core.mesh import check_rows, my_rows, place, place_rows
from memjax.core.types import Array, Params
from memjax.training.sharding import Sharding, sharding_from
from memjax.training.state import TrainState, create_sharded_state, create_state


class Spread(NamedTuple):
    """Where state and rows of a run lie.

    Attributes:
        sharding: Mesh and rules, or None on one device.
        accumulate: Parts in which a batch is taken.
        batch_size: Rows of the global batch.
        positions: The places of a batch whose rows this process needs; None: all.
    """

    sharding: Sharding | None
    accumulate: int
    batch_size: int
    positions: Int[np.ndarray, " k"] | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Spread":
        """Builds it from the sections ``parallel`` and ``train`` of a configuration.

        Raises:
            ValueError: If the mesh does not fit the devices, or the batch does not fit the mesh.
        """
        parallel, batch_size = config["parallel"], config["train"]["batch_size"]
        sharding = sharding_from(parallel)
        accumulate = parallel["accumulate"]
        check_rows(sharding.mesh, batch_size, accumulate)
        if jax.device_count() == 1:
            return cls(None, accumulate, batch_size, None)
        return cls(sharding, accumulate, batch_size, my_rows(sharding.mesh, batch_size))

    def state(
        self,
        params: Params,
        tx: optax.GradientTransformation,
        key: Array,
        num_rows: int | None = None,
        filter: bool = False,
    ) -> TrainState:
        """Returns the state at step 0, each part of it where it belongs."""
        if self.sharding is None:
            # Put on its device, as a restored state is: going on then finds the compiled step.
            return jax.device_put(create_state(params, tx, key, num_rows, filter), jax.devices()[0])
        return create_sharded_state(params, tx, key, self.sharding, num_rows, filter)

    def weights(self, params: Params) -> Params:
        """Returns weights that are not trained, each part of them where it belongs."""
        return params if self.sharding is None else place(params, self.sharding.of(params))

    @property
    def whole(self) -> Any:
        """The sharding of results that every process reads; None on one device."""
        return None if self.sharding is None else self.sharding.whole

    def place(self, batch: PyTree) -> PyTree:
        """Returns a batch of this process's rows as one of all processes."""
        if self.sharding is None:
            return jax.device_put(batch)
        return place_rows(batch, self.sharding.mesh, self.positions, self.batch_size)

    def __str__(self) -> str:
        if self.sharding is None:
            return ""
        shape = ", ".join(f"{n} {size}" for n, size in self.sharding.mesh.shape.items() if size > 1)
        processes = jax.process_count()
        return f" ({shape}{f'; {processes} processes' if processes > 1 else ''})"

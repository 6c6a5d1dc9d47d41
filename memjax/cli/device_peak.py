"""What the devices of a run can compute at most: from the chip table, else measured."""

import statistics
import time

import jax
import jax.numpy as jnp

from memjax.core.chips import chip_of

_SIDE, _REPEATS = 1024, 7


def peak_flops(dtype: str = "float32") -> float:
    """Returns the FLOP/s of all devices together.

    The chip's dense bfloat16 peak where the table knows it, whatever the dtype; elsewhere the
    median rate of a plain square product in ``dtype``, measured now (a few hundredths of a second).
    """
    chip = chip_of(jax.devices()[0].device_kind)
    each = measured_peak(dtype) if chip is None else chip.flops
    if chip is None and jax.devices()[0].platform == "cpu":
        return each * jax.process_count()  # the devices of one processor share it
    return each * jax.device_count()


def measured_peak(dtype: str = "float32", side: int = _SIDE) -> float:
    """Returns the FLOP/s of a square product on this process's first device."""
    device = jax.local_devices()[0]
    a = jax.device_put(jnp.ones((side, side), dtype), device)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - began)
    return 2.0 * side**3 / statistics.median(times)

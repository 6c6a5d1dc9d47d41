"""The devices of a process: a CPU's cores as devices, peak arithmetic, compiled programs on disk.

XLA runs a small operation on one core, however many there are. Prompts need nothing of each other,
so where a command only scores or samples them each core gets rows of its own. Training stays on one
device unless it is told otherwise: the order of its sums, and so its rounding, would depend on the
machine.
"""

import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memjax.core.chips import chip_of
from memjax.core.mesh import prompts_mesh
from memjax.core.types import Params
from memjax.runtime.batching import free_bytes
from memjax.runtime.cores import usable_cores

ON_ALL_CORES = ("sample", "detect")
CPU_DEVICES = "MEMJAX_CPU_DEVICES"
_SHARE = 8  # of the free memory, one part at most for copies of the weights
_SIDE, _REPEATS = 1024, 7
COMPILED_FOLDER = Path("~/.cache/memjax/compiled")


def share_cores(command: str, environ: Mapping[str, str] = os.environ) -> int:
    """Makes a device of each core for the commands that gain by it; returns how many, 0 for none.

    Must run before JAX's devices exist. What the user set stays: ``JAX_NUM_CPU_DEVICES`` and
    XLA's own flag; ``MEMJAX_CPU_DEVICES=1`` turns this off. Nothing changes on accelerators.

    Raises:
        ValueError: If ``MEMJAX_CPU_DEVICES`` is no number.
    """
    if command not in ON_ALL_CORES or "JAX_NUM_CPU_DEVICES" in environ:
        return 0
    if "host_platform_device_count" in environ.get("XLA_FLAGS", ""):
        return 0
    said = environ.get(CPU_DEVICES, "")
    if said and (not said.isdecimal() or int(said) < 1):
        raise ValueError(f"{CPU_DEVICES}={said} is no number of devices, expected 1 or more.")
    count = int(said) if said else usable_cores()
    jax.config.update("jax_num_cpu_devices", count)
    return count


def mesh_of_prompts(params: Params, rows: int) -> Mesh | None:
    """Returns a mesh of all devices; on one CPU of as many as rows and free memory allow.

    Args:
        params: The weights, of which every device holds a copy.
        rows: Prompts.
    """
    copies = free_bytes() // (_SHARE * max(sum(leaf.nbytes for leaf in jax.tree.leaves(params)), 1))
    return prompts_mesh(most_of_cpu=max(1, min(rows, copies)))


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


def keep_compiled() -> Path | None:
    """Keeps programs that take over a second to compile, on accelerators; returns where.

    Where ``JAX_COMPILATION_CACHE_DIR`` is set JAX does so by itself, on CPUs too; there it is not
    the default, since programs of one processor may not run on the next. ``MEMJAX_COMPILED=0``
    keeps nothing.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("MEMJAX_COMPILED") == "0":
        return None
    if jax.default_backend() == "cpu":
        return None
    folder = COMPILED_FOLDER.expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder

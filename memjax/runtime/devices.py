"""A device for each core of a CPU, so that prompts of a small network keep all cores busy.

XLA runs a small operation on one core, however many there are. Prompts need nothing of each other,
so where a command only scores or samples them each core gets rows of its own. Training stays on one
device unless it is told otherwise: the order of its sums, and so its rounding, would depend on the
machine.
"""

import os
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from memjax.cli.bench_timing import usable_cores
from memjax.core.mesh import prompts_mesh
from memjax.core.types import Params
from memjax.runtime.batching import free_bytes

COMMANDS = ("sample", "detect")
NAME = "MEMJAX_CPU_DEVICES"
_SHARE = 8  # of the free memory, one part at most for copies of the weights


def share_cores(command: str, environ: Mapping[str, str] = os.environ) -> int:
    """Makes a device of each core for the commands that gain by it; returns how many, 0 for none.

    Must run before JAX's devices exist. What the user set stays: ``JAX_NUM_CPU_DEVICES`` and
    XLA's own flag; ``MEMJAX_CPU_DEVICES=1`` turns this off. Nothing changes on accelerators.

    Raises:
        ValueError: If ``MEMJAX_CPU_DEVICES`` is no number.
    """
    if command not in COMMANDS or "JAX_NUM_CPU_DEVICES" in environ:
        return 0
    if "host_platform_device_count" in environ.get("XLA_FLAGS", ""):
        return 0
    said = environ.get(NAME, "")
    if said and (not said.isdecimal() or int(said) < 1):
        raise ValueError(f"{NAME}={said} is no number of devices, expected 1 or more.")
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

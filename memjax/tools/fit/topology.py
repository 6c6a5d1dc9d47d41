"""The devices of a TPU slice that is not there, as the TPU compiler on this machine knows them."""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from memjax.core.chips import CHIPS, Chip

# Every name has its chip's number of axes; the first is the smallest slice that is worth a look.
EXAMPLES = {
    "v4": "v4:2x2x2, v4:4x4x4",
    "v5e": "v5e:2x4, v5e:16x16",
    "v5p": "v5p:2x2x2, v5p:4x4x4",
    "v6e": "v6e:2x4, v6e:16x16",
}
# The compiler asks the machine it runs on what TPU it is; here there is none to find.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "2",  # errors are shown
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is touched, so several may compile at once
}


class Topology(NamedTuple):
    """Slices of one kind.

    Attributes:
        name: As given, such as ``v5e:2x4``.
        chip: Of :mod:`memjax.core.chips`.
        axes: Chips along each axis of a slice.
        slices: How many slices, joined by the data center's network.
    """

    name: str
    chip: Chip
    axes: tuple[int, ...]
    slices: int = 1

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]

    @property
    def chips(self) -> int:
        return math.prod(self.axes) * self.slices

    @property
    def ingress(self) -> float:
        """Bytes/s a chip takes in over its links, all used: two an axis that closes to a ring.

        An axis that does not has chips at its ends with one link, and a collective waits for them.
        """
        chip = self.chip
        rings = [2 if size % chip.wraps_at == 0 else 1 for size in self.axes if size > 1]
        return chip.link * sum(rings)


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads ``CHIP:AxB`` or ``CHIP:AxBxC``.

    Raises:
        ValueError: If the chip is unknown or the axes are not those of its slices.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    examples = EXAMPLES.get(match[1] if match else "")
    if match is None or examples is None:
        raise ValueError(
            f"--topology={name} is unknown, expected CHIP:AxB or CHIP:AxBxC with CHIP one of "
            f"{', '.join(EXAMPLES)}, such as {'; '.join(EXAMPLES.values())}."
        )
    axes = tuple(int(size) for size in match[2].split("x"))
    expected = examples.split(",")[0].count("x") + 1
    if len(axes) != expected or min(axes) < 1:
        raise ValueError(
            f"--topology={name} has {len(axes)} axes, expected {expected} of at least 1 for "
            f"{match[1]}: for instance {examples}."
        )
    if slices < 1:
        raise ValueError(f"--slices is {slices}, expected at least 1.")
    return Topology(name, CHIPS[match[1]], axes, slices)


def prepare_compiler() -> None:
    """Sets what the TPU compiler needs; before any backend of JAX is used.

    Raises:
        ValueError: If the compiler is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "memjax fit needs the TPU compiler, which is not installed: pip install 'memjax[tpu]' "
            "(it needs no TPU)."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def devices_of(topology: Topology) -> list[Any]:
    """Returns the abstract devices of the slices, one a chip.

    Raises:
        ValueError: If the compiler knows no such slice.
    """
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.family == "v4":  # as JAX shows its chips when they are there
        options["chip_config_name"] = "megacore"
    if topology.axes == (1, 1):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={topology.name} is no slice that the TPU compiler knows ({said}): take "
            f"one such as {EXAMPLES[topology.family]}."
        ) from error
    return list(found.devices)

"""How fast a chip could run a program at best, from its flops, bytes and exchanges.

References:
    Williams, Waterman and Patterson 2009, "Roofline: An Insightful Visual Performance Model",
    doi 10.1145/1498765.1498785.
"""

from collections.abc import Sequence
from typing import NamedTuple

from memjax.cli.fit_collectives import Collective
from memjax.tools.fit.topology import Topology


class Roofline(NamedTuple):
    """Times of one run on one chip, each at the peak of what it needs; seconds.

    Attributes:
        compute: Flops at the peak of bfloat16 products.
        memory: Bytes accessed at the bandwidth of the chip's memory.
        links: Bytes taken in from the slice's other chips, with all links in use at once.
        network: Bytes taken in from other slices over the data centre's network.
        intensity: Flops a byte of memory.
        ridge: The chip's: below it memory, above it products set the time.
    """

    compute: float
    memory: float
    links: float
    network: float
    intensity: float
    ridge: float

    @property
    def seconds(self) -> float:
        """The longest of the four: all that can overlap does."""
        return max(self.compute, self.memory, self.links, self.network)

    @property
    def serial(self) -> float:
        """Their sum: nothing overlaps."""
        return self.compute + self.memory + self.links + self.network

    @property
    def bound(self) -> str:
        """What sets the time: ``compute``, ``memory``, ``links`` or ``network``."""
        times = {name: getattr(self, name) for name in ("compute", "memory", "links", "network")}
        return max(times, key=lambda name: times[name])


def roofline(
    flops: float, bytes_accessed: float, collectives: Sequence[Collective], topology: Topology
) -> Roofline:
    """Returns the times of one run.

    Args:
        flops: Of one chip.
        bytes_accessed: Of one chip.
        collectives: The program's exchanges.
        topology: The slices.
    """
    chip = topology.chip
    inside = sum(one.received for one in collectives if not one.crosses)
    across = sum(one.received for one in collectives if one.crosses)
    return Roofline(
        compute=flops / chip.flops,
        memory=bytes_accessed / chip.bandwidth,
        links=inside / topology.ingress if inside else 0.0,
        network=across / chip.network if across else 0.0,
        intensity=flops / bytes_accessed if bytes_accessed else 0.0,
        ridge=chip.ridge,
    )

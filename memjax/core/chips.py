"""What accelerators can do at best, from their makers' public tables: plain numbers, no backend.

All figures are per chip and per second, and peaks: no program reaches them. FLOP/s are those of
dense matrix products in bfloat16 (float16 on T4 and V100, which know no bfloat16); the tables of
recent GPUs print twice as much, for sparse ones.

References:
    TPU: the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of docs.cloud.google.com/tpu/docs
    (peak, memory, its bandwidth, links; network by pod or chip, read in November 2026); Jouppi et
    al. 2023, arXiv 2304.01433, Table 4 (v4's links). GPU: NVIDIA's data sheets of A100
    (1758950), H100, H200, L4, T4 and V100.

.. note:: Checked against a copy of those pages: everything of v5e, v5p and v6e; v4 but for its
    links and network; A100. H100, H200, T4 and L4's memory bandwidth stand so in several
    independent tables. Not checked: v4's network (a host's network card shared by four chips,
    assumed), L4's and V100's peaks and links. ``usable`` was read from refusals of the TPU
    compiler (libtpu 0.0.42) in programs that did not fit.
"""

import re
from typing import NamedTuple

GIB = 1 << 30


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
        name: Its usual name.
        flops: Peak of dense bfloat16 products, FLOP/s.
        memory: Bytes of its memory.
        bandwidth: Of that memory, bytes/s.
        cores: TensorCores a TPU chip is made of, 1 elsewhere; JAX shows v4 and v5p as one device
            a chip all the same.
        link: Bytes/s of one link to a neighbor, one direction; of a GPU, all its NVLinks (or
            PCIe) together.
        links: Links a chip has.
        wraps_at: Axes of a slice whose length is a multiple of this close to a ring, so that a
            chip has two links along it; 0 where chips are switched.
        network: Bytes/s of the data center's network a chip has, one direction; 0 where unknown.
        usable: Bytes the compiler gives a program; 0 where unknown.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    cores: int
    link: float
    links: int
    wraps_at: int = 0
    network: float = 0.0
    usable: float = 0.0

    @property
    def ridge(self) -> float:
        """FLOPs a byte of memory above which products, not memory, set the time."""
        return self.flops / self.bandwidth


CHIPS: dict[str, Chip] = {
    "v4": Chip("TPU v4", 275e12, 32 * GIB, 1200e9, 2, 50e9, 6, 4, 6.25e9, 30.75 * GIB),
    "v5e": Chip("TPU v5e", 197e12, 16 * GIB, 819e9, 1, 50e9, 4, 16, 3.125e9, 15.75 * GIB),
    "v5p": Chip("TPU v5p", 459e12, 95 * GIB, 2765e9, 2, 100e9, 6, 4, 6.25e9, 95.74 * GIB),
    "v6e": Chip("TPU v6e", 918e12, 32 * GIB, 1638e9, 1, 100e9, 4, 16, 12.5e9, 31.25 * GIB),
    "a100-40": Chip("A100 40 GB", 312e12, 40e9, 1555e9, 1, 300e9, 1),
    "a100-80": Chip("A100 80 GB", 312e12, 80e9, 2039e9, 1, 300e9, 1),
    "h100": Chip("H100 SXM", 989e12, 80e9, 3350e9, 1, 450e9, 1),
    "h200": Chip("H200 SXM", 989e12, 141e9, 4800e9, 1, 450e9, 1),
    "l4": Chip("L4", 121e12, 24e9, 300e9, 1, 32e9, 1),
    "t4": Chip("T4", 65e12, 16e9, 320e9, 1, 16e9, 1),
    "v100": Chip("V100 SXM", 125e12, 16e9, 900e9, 1, 150e9, 1),
}
# device_kind of JAX -> name above. Cards that share a name but not the figures (H100 PCIe, A100
# PCIe's 80 GB bandwidth, V100 PCIe, H200 NVL, L40) are left unknown rather than guessed.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"TPU v4", "v4"),
    (r"TPU v5 ?(lite|e)", "v5e"),
    (r"TPU v5p?", "v5p"),
    (r"TPU v6 ?(lite|e)", "v6e"),
    (r"NVIDIA A100-(SXM4|PCIE)-40GB", "a100-40"),
    (r"NVIDIA A100-SXM4-80GB", "a100-80"),
    (r"NVIDIA H100 80GB HBM3", "h100"),
    (r"NVIDIA H200", "h200"),
    (r"NVIDIA L4", "l4"),
    (r"(Tesla|NVIDIA) T4", "t4"),
    (r"Tesla V100-SXM2-(16|32)GB", "v100"),
)


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip behind JAX's ``device_kind``, or None where its figures are not known.

    .. note:: V100's memory is that of its 16 GB version.
    """
    for pattern, name in _KINDS:
        if re.fullmatch(pattern, device_kind):
            return CHIPS[name]
    return None

"""Names of TPU slices: what Cloud, GKE, xpk and SkyPilot call the same chips.

Cloud counts TensorCores in the name of a v4 or v5p slice, two a chip, and chips in that of a v5e or
v6e slice: ``v5p-64`` is 32 chips, ``v5e-8`` (in Cloud: ``v5litepod-8``) is 8. From Cloud's pages
on TPU versions and on TPU software versions; topologies and GKE's labels from xpk 1.16's table.
"""

import difflib
from typing import NamedTuple

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
    512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip


class Family(NamedTuple):
    """One generation of TPUs.

    Attributes:
        cloud: Its prefix in Cloud's accelerator types.
        cores: TensorCores a chip, as the name counts them.
        label: Value of GKE's label ``cloud.google.com/gke-tpu-accelerator``.
        runtime: Cloud's software version for JAX.
        topologies: Chips → topology.
    """

    cloud: str
    cores: int
    label: str
    runtime: str
    topologies: dict[int, str]


FAMILIES = {
    "v4": Family("v4", 2, "tpu-v4-podslice", "tpu-ubuntu2204-base", _CUBES),
    "v5e": Family("v5litepod", 1, "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", _FLAT),
    "v5p": Family("v5p", 2, "tpu-v5p-slice", "v2-alpha-tpuv5", _CUBES),
    "v6e": Family("v6e", 1, "tpu-v6e-slice", "v2-alpha-tpuv6e", _FLAT),
}


class Slice(NamedTuple):
    """One slice, under all its names.

    Attributes:
        name: Short name, such as ``v5e-8``.
        type: Cloud's accelerator type, such as ``v5litepod-8``.
        chips: How many chips it has.
        topology: How they are laid out, such as ``2x4``.
        label: GKE's label.
        runtime: Cloud's software version for JAX.
        cores: TensorCores a chip, as the name counts them.
    """

    name: str
    type: str
    chips: int
    topology: str
    label: str
    runtime: str
    cores: int

    @property
    def chips_per_vm(self) -> int:
        """Chips that one machine of a GKE node pool has, as xpk makes them (``…-4t``)."""
        return 1 if self.chips == 1 else 4

    @property
    def vms(self) -> int:
        """Machines of a GKE node pool of this slice."""
        return self.chips // self.chips_per_vm

    @property
    def one_host(self) -> bool:
        """Whether Cloud gives it as a single TPU VM: up to 8 chips of v5e and v6e, 4 of others."""
        return self.chips <= (4 if self.cores == 2 else 8)

    def described(self) -> str:
        """Says how many chips there are and what the name counts."""
        family = self.name.partition("-")[0]
        counted = f"{self.chips * self.cores} TensorCores, {self.chips} chips"
        chips = counted if self.cores == 2 else f"{self.chips} chip{'s' * (self.chips > 1)}"
        return f"{self.type}: {chips}, topology {family}:{self.topology}"


def is_tpu(name: str) -> bool:
    """Whether an accelerator's name means TPUs."""
    return name.partition("-")[0] in {*FAMILIES, *(f.cloud for f in FAMILIES.values())}


def find_slice(name: str) -> Slice:
    """Returns the slice called ``v5e-8``, ``v5litepod-8``, ``v5p-64``, ``v6e-16`` or the like.

    Raises:
        ValueError: If there is none, with those there are.
    """
    prefix, _, size = name.partition("-")
    found = next((k for k, f in FAMILIES.items() if prefix in (k, f.cloud)), None)
    if found is None:
        near = difflib.get_close_matches(prefix, FAMILIES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}-{size or 8}?" if near else ""
        raise ValueError(
            f"--accelerator={name} is no TPU slice, expected {', '.join(FAMILIES)} and a size, "
            f"such as v5e-8.{hint}"
        )
    family = FAMILIES[found]
    sizes = {chips * family.cores: chips for chips in family.topologies}
    if not size.isascii() or not size.isdigit() or int(size) not in sizes:
        counts = "TensorCores, two a chip" if family.cores == 2 else "chips"
        raise ValueError(
            f"--accelerator={name} is no size of {found}, expected one of "
            f"{', '.join(f'{found}-{s}' for s in sizes)} (the number counts {counts})."
        )
    chips = sizes[int(size)]
    return Slice(
        f"{found}-{int(size)}",
        f"{family.cloud}-{int(size)}",
        chips,
        family.topologies[chips],
        family.label,
        family.runtime,
        family.cores,
    )

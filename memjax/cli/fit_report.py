"""What `memjax fit` says: one mapping of plain numbers."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import jax

from memjax.cli.fit_collectives import read_collectives
from memjax.cli.fit_program import Program
from memjax.cli.fit_roofline import roofline
from memjax.core.mesh import row_shards
from memjax.runtime.flops import count_flops, count_kernel_flops
from memjax.runtime.provenance import versions
from memjax.tools.fit import traffic
from memjax.tools.fit.compile import Compiled, Largest, Refused
from memjax.tools.fit.hlo import loops
from memjax.tools.fit.topology import Topology
from memjax.training.sharding import placements, unused_rules

NOTE = (
    "Estimates, not measurements: a compiled program's figures against a chip's peaks, which no "
    "program reaches; the compiler counts memory traffic that may stay in the chip's fast memory."
)


def rules_table(program: Program) -> list[dict[str, Any]]:
    """Returns, for each rule that decided, its leaves and their bytes whole and a device."""
    sharding = program.sharding
    decided = placements(program.state, sharding.mesh, sharding.rules, sharding.fsdp_min_size)
    rows: dict[str, dict[str, Any]] = {}
    for one, leaf in zip(decided, jax.tree.leaves(program.state), strict=True):
        size = leaf.size * getattr(leaf.dtype, "itemsize", 4)
        parts = 1
        for axis in one.spec:
            parts *= sharding.mesh.shape[axis] if axis else 1
        row = rows.setdefault(
            " + ".join(one.rules),
            {"leaves": 0, "bytes": 0, "bytes_per_device": 0, "example": one.path},
        )
        row["leaves"] += 1
        row["bytes"] += size
        row["bytes_per_device"] += size // parts
    return [{"rule": rule, **row} for rule, row in rows.items()]


def base_report(
    program: Program, topology: Topology, batch: int, outcome: Compiled | Refused
) -> dict[str, Any]:
    """Returns what is known whether the program fits or not."""
    sharding, chip = program.sharding, topology.chip
    decided = placements(program.state, sharding.mesh, sharding.rules, sharding.fsdp_min_size)
    refused = isinstance(outcome, Refused)
    limit = (outcome.limit if isinstance(outcome, Refused) else 0.0) or chip.usable
    memory: Mapping[str, Any] = (
        dict.fromkeys(("arguments", "outputs", "aliased", "temporaries", "code"))
        | {"total": outcome.needed or None}
        if isinstance(outcome, Refused)
        else outcome.memory
    )
    return {
        "fits": not refused,
        "refusal": outcome.said if isinstance(outcome, Refused) else None,
        "topology": topology.name,
        "slices": topology.slices,
        "devices": topology.chips,
        "chip": {name: getattr(chip, name) for name in ("name", "flops", "memory", "bandwidth")}
        | {"ingress": topology.ingress, "network": chip.network, "ridge": chip.ridge},
        "mesh": dict(sharding.mesh.shape),
        "network": program.network,
        "parameters": program.params,
        "batch": batch,
        "rows": program.rows,
        "memory": {**memory, "limit": limit},
        "rules": rules_table(program),
        "unused_rules": unused_rules(decided, sharding.rules),
        "versions": {**versions(), "libtpu": _libtpu()},
        "note": NOTE,
    }


def _libtpu() -> str:
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def full_report(
    program: Program, topology: Topology, batch: int, compiled: Compiled
) -> dict[str, Any]:
    """Returns the figures of a program that fits.

    .. note:: The compiler counts a loop's body once. Where the program has loops that run several
        times, flops are those of all matrix products and convolutions as JAX traced them, over the
        devices, and bytes are the compiler's times the ratio of the two counts: an assumption. What
        kernels compute, which the compiler does not see, is added to its flops.
    """
    mesh = program.sharding.mesh
    slice_of = [getattr(d, "slice_index", None) or 0 for d in mesh.devices.flat]
    collectives = read_collectives(compiled.text, slice_of)
    function, arguments = program.arguments(batch)
    counted = count_flops(function, *arguments) / topology.chips
    in_kernels = count_kernel_flops(function, *arguments) / topology.chips
    trips = [t for t in loops(compiled.text) if t is None or t > 1]
    scale = (counted - in_kernels) / compiled.flops if trips and compiled.flops else 1.0
    scale = max(scale, 1.0)
    flops, accessed = compiled.flops * scale + in_kernels, compiled.bytes_accessed * scale
    times = roofline(flops, accessed, collectives, topology)
    rows = max(batch // program.unit, 1)
    cuts = sorted({1, mesh.shape["tensor"], mesh.shape["fsdp"]})
    contents = traffic.by_content(collectives, traffic.weight_dims(program.state, cuts), rows)
    return {
        "flops": flops,
        "flops_compiler": compiled.flops,
        "flops_traced": counted,
        "flops_kernels": in_kernels,
        "bytes_accessed": accessed,
        "bytes_accessed_compiler": compiled.bytes_accessed,
        "loops": {str(trip): trips.count(trip) for trip in dict.fromkeys(trips)},
        "intensity": times.intensity,
        "bound": times.bound,
        "roofline_seconds": times.seconds,
        "roofline": {
            "compute": times.compute,
            "memory": times.memory,
            "links": times.links,
            "network": times.network,
            "serial": times.serial,
        },
        "optimal_seconds": compiled.optimal_seconds,
        "rows_per_second": batch / times.seconds,
        "mfu": counted / topology.chip.flops / times.seconds,
        "collectives": traffic.summary(collectives, contents),
        "largest_collectives": traffic.largest(collectives, contents),
        "activation_gathers": traffic.activation_gathers(collectives, contents),
        "compile_seconds": compiled.seconds,
        "row_shards": row_shards(mesh),
    }


def largest_report(largest: Largest | None) -> dict[str, Any] | None:
    """Returns what the search for the largest batch found."""
    return None if largest is None else largest._asdict()

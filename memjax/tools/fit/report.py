"""What `memjax fit` says: one mapping of plain numbers, a roofline in it, and the same as text.

References:
    Williams, Waterman and Patterson 2009, "Roofline: An Insightful Visual Performance Model",
    doi 10.1145/1498765.1498785.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from memjax.core.chips import GIB
from memjax.core.mesh import row_shards
from memjax.runtime.flops import count_flops, count_kernel_flops
from memjax.runtime.provenance import versions
from memjax.tools.fit import traffic
from memjax.tools.fit.collectives import Collective, read_collectives
from memjax.tools.fit.compile import Compiled, Largest, Refused
from memjax.tools.fit.hlo import loops
from memjax.tools.fit.programs import Program
from memjax.tools.fit.topology import Topology
from memjax.training.sharding import placements, unused_rules

NOTE = (
    "Estimates, not measurements: a compiled program's figures against a chip's peaks, which no "
    "program reaches; the compiler counts memory traffic that may stay in the chip's fast memory."
)


class Roofline(NamedTuple):
    """Times of one run on one chip, each at the peak of what it needs; seconds.

    Attributes:
        compute: Flops at the peak of bfloat16 products.
        memory: Bytes accessed at the bandwidth of the chip's memory.
        links: Bytes taken in from the slice's other chips, with all links in use at once.
        network: Bytes taken in from other slices over the data center's network.
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


def gib(count: float | None) -> str:
    """Returns bytes in GiB, or a dash."""
    return "-" if count is None else f"{count / GIB:.2f} GiB"


def amount(count: float, unit: str) -> str:
    """Returns a number with the prefix it is read best with."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """Returns a time in s, ms or µs."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def table(report: Mapping[str, Any]) -> str:
    """Returns the whole report as text."""
    lines = [*_head(report), *_memory(report)]
    if "flops" in report and report["flops"] is not None:
        lines += [*_times(report), *_exchanges(report)]
    lines += [*_rules(report), *_largest(report), report["note"]]
    return "\n".join(lines)


def _head(report: Mapping[str, Any]) -> list[str]:
    mesh = " x ".join(f"{name} {size}" for name, size in report["mesh"].items())
    slices = f" x {report['slices']} slices" if report["slices"] > 1 else ""
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    return [
        f"{report['config']}, {report['job']}, on {report['topology']}{slices}: "
        f"{report['devices']} {report['chip']['name']} chips ({mesh}), {report['batch']} "
        f"{report['rows']}: {verdict}",
        f"{report['network']}; {report['parameters'] / 1e6:.1f} M trained weights"
        if report["job"] == "train"
        else f"{report['network']}; {report['parameters'] / 1e6:.1f} M weights",
    ]


def _memory(report: Mapping[str, Any]) -> list[str]:
    memory = report["memory"]
    if not report["fits"]:
        return [
            f"memory a chip: needs {gib(memory['total'])} of {gib(memory['limit'])} "
            f"(the compiler: {report['refusal']})"
        ]
    kinds = ("arguments", "outputs", "aliased", "temporaries", "code")
    parts = ", ".join(f"{kind} {gib(memory[kind])}" for kind in kinds)
    return [f"memory a chip: {gib(memory['total'])} of {gib(memory['limit'])} ({parts})"]


def _noun(report: Mapping[str, Any]) -> str:
    return report["rows"].split()[0]


def _times(report: Mapping[str, Any]) -> list[str]:
    times, ridge = report["roofline"], report["chip"]["ridge"]
    parts = ("compute", "memory", "links", "network")
    shown = ", ".join(f"{part} {duration(times[part])}" for part in parts if times[part])
    side = "above" if report["intensity"] > ridge else "below"
    source = "traced, loops run out" if report["loops"] else "the compiler's count"
    lines = [
        f"a chip and run: {amount(report['flops'], 'FLOP')} ({source}), "
        f"{amount(report['bytes_accessed'], 'B')} of memory; intensity "
        f"{report['intensity']:.0f} FLOP/B, {side} the ridge of {ridge:.0f}",
        f"roofline: {duration(report['roofline_seconds'])} ({report['bound']}), "
        f"{duration(times['serial'])} if nothing overlaps ({shown})",
        f"so at best about {report['rows_per_second']:.4g} {_noun(report)} a second, "
        f"{100 * report['mfu']:.0f} % of the chips' peak",
    ]
    if report["optimal_seconds"]:
        once = ", a loop's body counted once" if report["loops"] else ""
        lines.append(f"the compiler's own estimate{once}: {duration(report['optimal_seconds'])}")
    return lines


def _exchanges(report: Mapping[str, Any]) -> list[str]:
    lines = ["exchanges a run:"]
    lines.append(
        f"  {'kind':<19}{'count':>6}{'whole':>10}{'taken in':>10}{'weights':>10}{'activ.':>10}"
    )
    for kind, row in report["collectives"].items():
        lines.append(
            f"  {kind:<19}{row['count']:>6}{amount(row['bytes'], 'B'):>10}"
            f"{amount(row['received'], 'B'):>10}{amount(row['weights_bytes'], 'B'):>10}"
            f"{amount(row['activations_bytes'], 'B'):>10}"
        )
    if not report["collectives"]:
        lines = ["exchanges a run: none"]
    lines += [
        f"  {row['kind']} of {amount(row['bytes'], 'B')}, {row['moves']}: "
        f"{', '.join(row['largest'])}{' ...' if row['arrays'] > 3 else ''} {row['operation']}"
        for row in report["largest_collectives"][:5]
    ]
    if report["collectives"].get("collective-permute", {}).get("weights_bytes"):
        lines.append("  (permutations of weights: sums and gathers run beside the products)")
    gathers = report["activation_gathers"]
    if gathers["count"]:
        first = gathers["largest"][0]
        lines.append(
            f"ACTIVATIONS ARE GATHERED: {gathers['count']} exchanges, "
            f"{amount(gathers['bytes'], 'B')}; the first {', '.join(first['largest'])} "
            f"{first['operation']}"
        )
    else:
        lines.append("no activations are gathered")
    return lines


def _rules(report: Mapping[str, Any]) -> list[str]:
    lines = ["what lies where:"]
    lines += [
        f"  {row['rule']}: {row['leaves']} leaves, {amount(row['bytes'], 'B')}, "
        f"{amount(row['bytes_per_device'], 'B')} a chip (such as {row['example']})"
        for row in report["rules"]
    ]
    if report["unused_rules"]:
        lines.append(f"  rules without a leaf: {', '.join(report['unused_rules'])}")
    return lines


def _largest(report: Mapping[str, Any]) -> list[str]:
    largest = report["largest_batch"]
    if largest is None:
        return []
    if not largest["batch"]:
        return [f"no batch was found that fits, down to {largest['refused']}"]
    refused = largest["refused"]
    until = "" if refused is None else f"; {refused} does not"
    exact = "" if largest["exact"] else f" ({largest['compiles']} compilations; not narrowed down)"
    return [f"largest batch seen to fit: {largest['batch']}{until}{exact}"]

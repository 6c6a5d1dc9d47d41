"""What a compiled program moves between which devices, read from its text.

.. note:: The TPU compiler hides three things. A reduce-scatter is a fusion that calls a computation
    ``all-reduce-scatter``, an all-reduce followed by a cut; it is counted as what it is. An
    exchange that runs beside arithmetic is repeated in each fusion that carries a piece of it,
    under one ``chain_id``; it is counted once. Between slices it makes send and receive of an
    exchange of each chip's share, the rest staying inside the slices.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from memjax.tools.fit.hlo import Instruction, Visit, computations, operands, walk

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16, "token": 0}
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_ACROSS = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


class Group(NamedTuple):
    """Devices that exchange together: how many, and whether they lie in several slices."""

    size: int
    crosses: bool


_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=([^ ]*))? ?\{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _counted(match: re.Match) -> Int[np.ndarray, "groups size"]:
    """``[2,4]<=[4,2]T(1,0)``: numbers in order, cut, turned and cut again."""
    devices = np.arange(math.prod(_numbers(match[2]))).reshape(_numbers(match[2]))
    if match[3]:
        devices = devices.transpose(_numbers(match[3]))
    return devices.reshape(_numbers(match[1]))


def _named(match: re.Match) -> Int[np.ndarray, "groups size"]:
    """``mesh['a'=2,'b'=4] {'b'}``: a grid of all devices; those along the axes named exchange."""
    axes = re.findall(r"'([^']+)'=(\d+)", match[1])
    names, sizes = [name for name, _ in axes], [int(size) for _, size in axes]
    order = np.arange(math.prod(sizes))
    if match[2]:
        inner = re.match(r"\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", match[2])
        if inner:
            order = np.arange(math.prod(sizes)).reshape(_numbers(inner[1]))
            order = order.transpose(_numbers(inner[2])) if inner[2] else order
    along = [names.index(name) for name in re.findall(r"'([^':]+)'", match[3]) if name in names]
    others = [axis for axis in range(len(names)) if axis not in along]
    grid = order.reshape(sizes).transpose(*others, *along)
    return grid.reshape(-1, math.prod(sizes[axis] for axis in along))


def group_of(text: str, slice_of: Sequence[int]) -> Group:
    """Reads the groups of an instruction; without any, all devices exchange.

    Args:
        text: The instruction after its opening bracket.
        slice_of: Slice of each device, in the order of the mesh.
    """
    groups: list[list[int]] = []
    if match := _LISTED.search(text):
        groups = [_numbers(part) for part in match[1].strip("{}").split("},{")]
    elif match := _COUNTED.search(text):
        groups = _counted(match).tolist()
    elif match := _NAMED.search(text):
        groups = _named(match).tolist()
    elif match := _PAIRS.search(text):
        groups = [_numbers(part) for part in match[1].strip("{}").split("},{")]
    groups = groups or [list(range(len(slice_of)))]
    crosses = any(len({slice_of[device] for device in group}) > 1 for group in groups)
    return Group(max(len(group) for group in groups), crosses)


class Shape(NamedTuple):
    """One array: its type and its sizes."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        width = _BYTES.get(self.dtype)
        if width is None:
            width = int(re.sub(r"\D", " ", self.dtype).split()[0]) / 8
        return int(math.prod(self.dims) * width)


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: One of ``KINDS``.
        shapes: The arrays, as the group of devices holds them together (a gather's results, a
            scatter's inputs).
        group: Devices that take part together.
        crosses: Whether they lie in several slices.
        times: How often a run of the program makes it: the product of the trips of the loops
            around it.
        sure: Whether all those trips are known; an unknown one counts once.
        name: The JAX operation it comes from, as far as the compiler kept it.
    """

    kind: str
    shapes: tuple[Shape, ...]
    group: int
    crosses: bool
    times: int
    sure: bool
    name: str

    @property
    def bytes(self) -> int:
        """Bytes of the arrays, every run of a loop counted."""
        return self.times * sum(shape.bytes for shape in self.shapes)

    @property
    def received(self) -> float:
        """Bytes that each device takes in, by the ring algorithm, every run counted.

        With n devices: (n - 1)/n of the arrays, twice that for an all-reduce (a scatter and a
        gather), all of them for a permutation.
        """
        if self.kind == "collective-permute":
            return float(self.bytes)
        share = (self.group - 1) / self.group
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def _shapes(text: str) -> list[Shape]:
    return [
        Shape(dtype, tuple(int(size) for size in dims.split(",") if size))
        for dtype, dims in _SHAPE.findall(text)
    ]


def read_collectives(text: str, slice_of: Sequence[int]) -> list[Collective]:
    """Returns the exchanges of a program between several devices.

    Started and finished halves are one exchange, counted at the start. What lies in a loop counts
    as often as the loop runs (the compiler's note, or the constant the loop counts up to).

    Args:
        text: ``compiled.as_text()``.
        slice_of: Slice of each device, in the order of the mesh.

    Raises:
        ValueError: If the text has no entry.
    """
    found, entry = computations(text)
    seen: set[tuple[str, str]] = set()
    collectives = []
    for visit in walk(found, entry, 1, True):
        rest = visit.instruction.rest
        if visit.instruction.opcode == "recv" and (across := _ACROSS.search(rest)):
            collectives.append(_between_slices(visit, across[1]))
            continue
        kind = visit.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        chain = re.search(r'chain_id="(\d+)"', rest)
        channel = re.search(r"channel_id=(\d+)", rest)
        if chain:
            piece = (chain[1], channel[1] if channel else "")
            if piece in seen:
                continue
            seen.add(piece)
        collectives.append(_collective(visit, kind, found, slice_of))
    return [one for one in collectives if one.group > 1 and one.kind in KINDS]


def _between_slices(visit: Visit, kind: str) -> Collective:
    """An exchange over the data center's network: each chip with those in its place elsewhere."""
    rest = visit.instruction.rest
    target = re.search(r'_xla_megascale_target="\{([^}]*)\}', rest)
    slices = len(target[1].split(",")) if target else 2
    name = re.search(r'_rendezvous="([^"]*)"', rest)
    return Collective(
        kind.lower().replace("_", "-"),
        tuple(_shapes(visit.instruction.type)[:1]),
        slices,
        True,
        visit.times,
        visit.sure,
        name[1] if name else "",
    )


def _collective(
    visit: Visit,
    kind: str,
    found: Mapping[str, list[Instruction]],
    slice_of: Sequence[int],
) -> Collective:
    _, type_, opcode, rest = visit.instruction
    group = group_of(rest, slice_of)
    shapes = _shapes(type_)
    if kind == "collective-permute" and opcode.endswith("-start"):
        shapes = shapes[:1]
    elif kind == "all-gather" and opcode.endswith("-start"):
        shapes = shapes[len(shapes) // 2 :]
    elif kind == "reduce-scatter":
        lines = {line.name: line.type for line in found[visit.computation]}
        names = operands(visit.instruction)
        shapes = [shape for name in names for shape in _shapes(lines.get(name, ""))]
    if kind == "all-reduce" and visit.computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    return Collective(
        kind,
        tuple(shapes),
        group.size,
        group.crosses,
        visit.times,
        visit.sure,
        visit.origin,
    )

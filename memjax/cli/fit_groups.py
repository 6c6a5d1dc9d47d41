"""Which devices exchange with each other, as a compiled program's text says it."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


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

"""What the exchanges of a program move: weights, activations, or neither; and how much by kind."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from memjax.tools.fit.collectives import KINDS, Collective, Shape

WEIGHTS, ACTIVATIONS, OTHER = "weights", "activations", "other"
_NUMBERS = 64  # an example's share of an activation has at least as many
_LISTED, _NAME = 10, 140
_TILE, _SHIFTED = 8, 4  # rows of a tile in a chip's memory; parts from which shifts were seen
_GATHERS = ("all-gather", "all-to-all", "collective-permute")


def _dims(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(size for size in shape if size > 1))


def weight_dims(state: PyTree, parts: Iterable[int] = (1,)) -> set[tuple[int, ...]]:
    """Returns the sizes that a leaf of the state has, whole or cut along one dimension.

    Order and ones are left out, and a cut dimension may stand as two: the compiler turns arrays
    around. Kernels of convolutions count with fewer taps, too: those after an upsampling are merged
    before they are used. The parts that a gradient is summed into may have a tile of eight rows too
    many, and are then shifted from device to device by as many tiles as lie before them.

    Args:
        state: Shapes.
        parts: Into how many parts a dimension may be cut.
    """
    shapes = {tuple(leaf.shape) for leaf in jax.tree.leaves(state)}
    merged = {
        (taps, taps, *shape[2:])
        for shape in shapes
        if len(shape) == 4
        for taps in range(2, shape[0])
    }
    found = {_dims(shape) for shape in shapes | merged}
    for shape in shapes | merged:
        for axis, size in enumerate(shape):
            before, after = shape[:axis], shape[axis + 1 :]
            for count in (count for count in parts if size % count == 0):
                cut = size // count
                found.add(_dims((*before, cut, *after)))
                found.add(_dims((*before, count, cut, *after)))
                if count >= _SHIFTED and cut % _TILE == 0:
                    padded = cut + _TILE
                    for size_there in (padded, count * padded, (count - 1) * _TILE):
                        found.add(_dims((*before, size_there, *after)))
    return found


def moved(collective: Collective, shape: Shape, weights: set[tuple[int, ...]], rows: int) -> str:
    """Says what one array of an exchange is, by its sizes.

    Whatever is no leaf's shape and has 64 numbers an example is taken for activations.

    Args:
        collective: The exchange.
        shape: The array.
        weights: Of :func:`weight_dims`.
        rows: Examples a device holds at once.

    .. note:: An activation whose sizes happen to be a weight's (``[128, 512]`` at a batch of 128)
        passes as weights: take a batch that is no width of the network to be sure.
    """
    if _dims(shape.dims) in weights:
        return WEIGHTS
    examples = rows * (collective.group if collective.kind == "all-gather" else 1)
    numbers = 1
    for size in shape.dims:
        numbers *= size
    return ACTIVATIONS if numbers >= _NUMBERS * examples else OTHER


def by_content(
    collectives: Sequence[Collective], weights: set[tuple[int, ...]], rows: int
) -> list[dict[str, int]]:
    """Returns, for each exchange, its bytes by what they are."""
    found = []
    for one in collectives:
        content = dict.fromkeys((WEIGHTS, ACTIVATIONS, OTHER), 0)
        for shape in one.shapes:
            content[moved(one, shape, weights, rows)] += one.times * shape.bytes
        found.append(content)
    return found


def summary(
    collectives: Sequence[Collective], contents: Sequence[dict[str, int]]
) -> dict[str, dict[str, Any]]:
    """Returns count, bytes and bytes taken in by a device, by kind of exchange."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        chosen = [(c, d) for c, d in zip(collectives, contents, strict=True) if c.kind == kind]
        if chosen:
            found[kind] = {
                "count": sum(one.times for one, _ in chosen),
                "bytes": sum(one.bytes for one, _ in chosen),
                "received": sum(one.received for one, _ in chosen),
                **{f"{what}_bytes": sum(c[what] for _, c in chosen) for what in chosen[0][1]},
            }
    return found


def row_of(one: Collective, content: dict[str, int]) -> dict[str, Any]:
    """Returns one exchange as plain data; of many arrays the largest three."""
    largest = sorted(one.shapes, key=lambda shape: -shape.bytes)
    return {
        "kind": one.kind,
        "bytes": one.bytes,
        "moves": max(content, key=lambda what: content[what]),
        "arrays": len(one.shapes),
        "largest": [f"{s.dtype}[{','.join(map(str, s.dims))}]" for s in largest[:3]],
        "group": one.group,
        "crosses_slices": one.crosses,
        "times": one.times,
        "operation": one.name[:_NAME],
    }


def largest(
    collectives: Sequence[Collective], contents: Sequence[dict[str, int]]
) -> list[dict[str, Any]]:
    """Returns the ten exchanges of most bytes."""
    order = sorted(zip(collectives, contents, strict=True), key=lambda pair: -pair[0].bytes)
    return [row_of(*pair) for pair in order[:_LISTED]]


def activation_gathers(
    collectives: Sequence[Collective], contents: Sequence[dict[str, int]]
) -> dict[str, Any]:
    """Returns how many exchanges bring other devices' activations, their bytes, and the largest.

    None is what it should be: examples need nothing of each other.
    """
    pairs = [
        (one, content)
        for one, content in zip(collectives, contents, strict=True)
        if one.kind in _GATHERS and content[ACTIVATIONS]
    ]
    return {
        "count": len(pairs),
        "bytes": sum(content[ACTIVATIONS] for _, content in pairs),
        "largest": largest([one for one, _ in pairs], [content for _, content in pairs])[:3],
    }

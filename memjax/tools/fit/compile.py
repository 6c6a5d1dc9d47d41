"""One compilation, what the compiler says of it, and the largest batch it accepts."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from memjax.core.names import MOST_COMPILES
from memjax.tools.fit.programs import Program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s?([KMGT]?)i?B?"
# What the TPU compiler writes where a program does not fit: needed bytes, then those there are.
_REFUSALS = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)


class Refused(NamedTuple):
    """A program that does not fit.

    Attributes:
        needed: Bytes a device would need, as far as the compiler says; 0 where it does not.
        limit: Bytes it has for a program; 0 where the compiler does not say.
        said: The compiler's first line.
    """

    needed: float
    limit: float
    said: str


class Compiled(NamedTuple):
    """A program that fits; every figure is one device's.

    Attributes:
        memory: Bytes of arguments, outputs, aliased (outputs in the place of arguments),
            temporaries, code, and their total.
        flops: The compiler's count; a loop's body counts once.
        bytes_accessed: The same of memory traffic.
        optimal_seconds: The compiler's estimate where it is positive, else None.
        text: The compiled program.
        seconds: What compiling took.
    """

    memory: dict[str, int]
    flops: float
    bytes_accessed: float
    optimal_seconds: float | None
    text: str
    seconds: float


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]


def read_refusal(message: str) -> Refused | None:
    """Reads a compiler's error; None where it is about something else than memory."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    said = message.strip().splitlines()[0]
    for pattern in _REFUSALS:
        if match := pattern.search(message):
            number, unit, limit, limit_unit = match.groups()
            return Refused(_bytes(number, unit), _bytes(limit, limit_unit), said)
    return Refused(0.0, 0.0, said)


def compile_at(program: Program, batch: int) -> Compiled | Refused:
    """Compiles a program for a batch.

    Raises:
        ValueError: If the batch does not lie evenly over the devices.
        jax.errors.JaxRuntimeError: If the compiler fails for another reason than memory.
    """
    function, arguments = program.arguments(batch)
    began = time.monotonic()
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = read_refusal(str(error))
        if refused is None:
            raise
        return refused
    cost = compiled.cost_analysis() or {}
    optimal = cost.get("optimal_seconds", 0.0)
    return Compiled(
        memory_of(compiled),
        float(cost.get("flops", 0.0)),
        float(cost.get("bytes accessed", 0.0)),
        optimal if optimal > 0 else None,
        compiled.as_text(),
        time.monotonic() - began,
    )


def memory_of(compiled: Any) -> dict[str, int]:
    """Returns a compiled program's bytes a device, by kind and in all."""
    said = compiled.memory_analysis()
    memory = {
        "arguments": int(said.argument_size_in_bytes),
        "outputs": int(said.output_size_in_bytes),
        "aliased": int(said.alias_size_in_bytes),
        "temporaries": int(said.temp_size_in_bytes),
        "code": int(said.generated_code_size_in_bytes),
    }
    return {**memory, "total": sum(memory.values()) - 2 * memory["aliased"]}


class Largest(NamedTuple):
    """What a search for the largest batch found.

    Attributes:
        batch: The largest that was seen to fit; 0 where none was.
        refused: The smallest that was seen not to; None where all fitted.
        compiles: Compilations it took, the first one included.
        exact: Whether nothing lies between the two.
    """

    batch: int
    refused: int | None
    compiles: int
    exact: bool


class Need(NamedTuple):
    """Bytes of a device at one batch: in all, those that do not depend on it, and whether it fits.

    ``total`` is 0 where the compiler did not say.
    """

    total: float
    fixed: float
    fits: bool


def need_of(outcome: Compiled | Refused) -> Need:
    """Returns what an outcome says about memory; weights and their like are the fixed part."""
    if isinstance(outcome, Refused):
        return Need(outcome.needed, 0.0, False)
    memory = outcome.memory
    return Need(memory["total"], memory["total"] - memory["temporaries"], True)


def largest_batch(
    probe: Callable[[int], Need],
    first: tuple[int, Need],
    unit: int,
    limit: float,
    most: int = MOST_COMPILES,
) -> Largest:
    """Bisects for the largest batch that fits, in multiples of ``unit``.

    Memory grows about linearly with the batch, so each next try is where the line through what
    fits meets the limit, but never nearer than an eighth of the gap to what fits or does not.

    Args:
        probe: Batch → its need; a compilation each.
        first: A batch that was compiled already, and its need.
        unit: Batches are multiples of this.
        limit: Bytes of a device; 0 where unknown.
        most: Compilations in all, the first included.
    """
    known: dict[int, Need] = {first[0]: first[1]}
    while len(known) < most:
        low = max((b for b, need in known.items() if need.fits), default=0)
        high = min((b for b, need in known.items() if not need.fits), default=None)
        if high is not None and high - low <= unit:
            break
        batch = _next(known, low, high, unit, limit)
        known[batch] = probe(batch)
    low = max((b for b, need in known.items() if need.fits), default=0)
    high = min((b for b, need in known.items() if not need.fits), default=None)
    return Largest(low, high, len(known), high is not None and high - low <= unit)


def _next(known: Mapping[int, Need], low: int, high: int | None, unit: int, limit: float) -> int:
    guess = _meets(known, limit)
    if high is None:
        guess = min(max(guess or 2 * low, low + unit), 16 * low)
        return int(guess // unit) * unit
    margin = max((high - low) / 8, unit)
    guess = min(max(guess or (low + high) / 2, low + margin), high - margin)
    return min(max(int(guess // unit) * unit, low + unit), high - unit)


def _meets(known: Mapping[int, Need], limit: float) -> float | None:
    """Returns the batch at which the line through the two largest that fit meets the limit.

    What does not fit is left out: the compiler may name a part of its bytes only.
    """
    fits = sorted((batch, need) for batch, need in known.items() if need.fits)[-2:]
    if not limit or not fits:
        return None
    batch, need = fits[-1]
    if len(fits) > 1:
        slope = (need.total - fits[0][1].total) / (batch - fits[0][0])
    else:
        slope = (need.total - need.fixed) / batch
    return batch + (limit - need.total) / slope if slope > 0 else None

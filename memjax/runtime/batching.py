"""How many prompts fit on the device at once, and running over all of them in that size."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from memjax.core.condition import num_rows, take_rows
from memjax.core.mesh import announced, fetch, place, replicated, row_shards, rows_over
from memjax.core.types import Bundle, Cond, PromptRow

EXAMPLES = 64  # prompts times generations a call; more buys no speed on one accelerator
_ACCELERATOR_SHARE, _HOST_SHARE = 0.9, 0.6  # of what is free; the host has other work
_SURE = 2.0  # the traced bound is taken as enough where it fits this many times


class RowProgram(Protocol):
    """A measurement of conditions row by row, such as :class:`memjax.detectors.Probe`.

    A frozen dataclass whose ``traced`` holds its other arrays by name.
    """

    @property
    def traced(self) -> Mapping[str, Any]: ...

    def __call__(self, cond: Cond, compiled: Any = None) -> PyTree: ...

    def trace(self, cond: Cond) -> jax.stages.Traced: ...


def usual_size(generations: int) -> int:
    """Returns the largest power of two of prompts with at most 64 examples, and at least 1."""
    return 1 << int(math.log2(max(1, EXAMPLES // generations)))


def free_bytes() -> int:
    """Returns the memory that may be filled: the device's, or the host's where it is the CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return int(_ACCELERATOR_SHARE * free)
    return int(_HOST_SHARE * _free_host_bytes())


def _free_host_bytes() -> float:
    """Returns free host memory, within the control group's limit; infinite where nothing says."""
    free = math.inf
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit.isdigit():
            used = int((group / "memory.current").read_text())
            free = min(free, max(int(limit) - used, 0))
    except OSError:  # another platform, or no control groups
        pass
    return free if math.isfinite(free) else float(1 << 62)


def program_bytes(compiled: Any) -> int | None:
    """Returns what a compiled program needs besides its arguments, or None where not told."""
    told = compiled.memory_analysis()
    if told is None:
        return None
    return int(told.temp_size_in_bytes + told.output_size_in_bytes)


def traced_bytes(traced: Any) -> int:
    """Returns the most bytes alive at once in a traced program, were nothing fused.

    A bound that costs no compilation; the arguments are not counted.
    """
    return _peak(traced.jaxpr.jaxpr)


def _peak(jaxpr: Any) -> int:
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        last |= dict.fromkeys(_variables(equation.invars), number)
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    alive, most = 0, 0
    sizes: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        made = {v: _bytes_of(v) for v in equation.outvars}
        sizes |= made
        alive += sum(made.values())
        inner = max((_peak(j) for j in _inner(equation.params)), default=0)
        most = max(most, alive + inner)
        for v in _variables([*equation.invars, *equation.outvars]):
            if last.get(v, number) == number:
                alive -= sizes.pop(v, 0)
    return most


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {a for a in atoms if not hasattr(a, "val")}  # literals have a value, and no lifetime


def _bytes_of(variable: Any) -> int:
    aval = variable.aval
    size = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * size


def _inner(params: Any) -> Iterator[Any]:
    """Yields the programs inside an equation: of scans, conditionals and calls."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def exhausted(error: BaseException) -> bool:
    """Returns whether an error says that the device has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def certainly_fits(traced: Any, rows: int = 1, budget: int | None = None) -> bool:
    """Returns whether so many rows of a program traced for one row need no second thought."""
    budget = free_bytes() if budget is None else budget
    return _SURE * rows * traced_bytes(traced) <= budget


def choose(trace: Callable[[int], Any], most: int, budget: int | None = None) -> tuple[int, Any]:
    """Chooses how many rows are evaluated at once; returns that and, if made already, its program.

    A program that certainly fits at ``most`` rows (twice its traced bound is free) needs no trial.
    Any other is compiled at one row, and what the compiler says of it is extrapolated in
    proportion: an upper bound, because what does not grow with the rows is counted again.

    Args:
        trace: Rows → traced program.
        most: The largest size; the others are its halves.
        budget: Free bytes; by default those of the device.
    """
    budget = free_bytes() if budget is None else budget
    single = trace(1)
    if most == 1 or certainly_fits(single, most, budget):
        return most, None
    compiled = single.lower().compile()
    needed = program_bytes(compiled)
    while needed and most > 1 and most * needed > budget:
        most = _half(most)
    return most, compiled if most == 1 else None


def _half(size: int, unit: int = 1) -> int:
    return unit * -(-size // (2 * unit))


class _Runner:
    """Runs a program on as many rows as fit, and remembers how many those are."""

    def __init__(self, program: RowProgram, given: int, budget: int | None, mesh: Mesh | None):
        self._program, self._given, self._budget = program, given, budget
        self._mesh = mesh
        self._unit = 1 if mesh is None else row_shards(mesh)
        self._size: int | None = None
        self._compiled: Any = None

    def __call__(self, cond: Cond, start: int) -> tuple[int, PyTree]:
        """Returns how many rows from ``start`` on were measured, and their output."""
        while True:
            try:
                if self._compiled is None:
                    self._make(cond)
                size = self._size or 1
                numbers = np.arange(start, start + size).clip(max=num_rows(cond) - 1)
                rows = take_rows(cond, numbers)
                if self._mesh is not None:
                    rows = place(rows, rows_over(self._mesh))
                return size, fetch(self._program(rows, self._compiled))
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                self._shrink(error)

    def _make(self, cond: Cond) -> None:
        def trace(rows: int) -> Any:
            with announced(self._mesh):
                return self._program.trace(_shapes(cond, rows, self._mesh))

        if self._size is None:
            block, unit = -(-num_rows(cond) // self._unit), self._unit
            size, self._compiled = (
                (block, None)
                if self._given
                else choose(lambda units: trace(units * unit), block, self._budget)
            )
            self._size = size * unit
        if self._compiled is None:
            self._compiled = trace(self._size).lower().compile()

    def _shrink(self, error: BaseException) -> None:
        if not exhausted(error) or (self._mesh is not None and jax.process_count() > 1):
            raise error
        if self._given:
            raise ValueError(
                f"--chunk={self._given} prompts at once do not fit into the device's memory: give "
                "a smaller --chunk, or 0 to take what fits."
            ) from error
        if (self._size or 1) == self._unit:
            raise ValueError(
                "the device's memory does not hold one prompt at a time: lower --generations, or "
                "compute in --dtype=bfloat16."
            ) from error
        self._size, self._compiled = _half(self._size or 1, self._unit), None


def over_rows(
    program: RowProgram,
    encode: Callable[[Sequence[int]], Cond],
    rows: Int[np.ndarray, " n"],
    *,
    size: int = 0,
    most: int = 16,
    budget: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[Int[np.ndarray, " k"], PyTree]]:
    """Measures some rows in batches of one static size, and yields each batch as it is done.

    The program is compiled once, whatever the number of rows.

    Args:
        program: What is measured.
        encode: Row numbers → their conditions; called with one number of rows always, the last
            row repeated where they run out.
        rows: Row numbers.
        size: Rows a call; 0 takes what fits (see :func:`choose`), and halves it where the device
            runs out of memory all the same.
        most: The largest automatic size.
        budget: See :func:`choose`.
        mesh: Devices over which rows are spread, those of several processes too; all processes
            must then go through the same rows. ``most`` counts rows a shard.

    Yields:
        ``(row numbers, output)``: NumPy arrays with one row a number.

    Raises:
        ValueError: If a given size, or one row, does not fit.
    """
    if mesh is not None:
        traced = place(program.traced, replicated(mesh))
        program = dataclasses.replace(program, traced=traced)  # type: ignore[type-var]
        most *= row_shards(mesh)
        if jax.process_count() > 1:  # all must choose alike
            free = free_bytes() if budget is None else budget
            budget = int(multihost_utils.process_allgather(np.float64(free)).min())
    run = _Runner(program, size, budget, mesh)
    block = min(size or most, len(rows))
    for start in range(0, len(rows), max(block, 1)):
        numbers = rows[np.arange(start, start + block).clip(max=len(rows) - 1)]
        cond = encode([int(i) for i in numbers])
        done, real = 0, min(block, len(rows) - start)
        while done < real:
            count, out = run(cond, done)
            kept = min(count, real - done)
            yield numbers[done : done + kept], jax.tree.map(lambda a, k=kept: a[:k], out)
            done += kept


def _shapes(cond: Cond, rows: int, mesh: Mesh | None) -> Cond:
    """Returns the shapes of a condition with so many rows."""
    sharding = None if mesh is None else rows_over(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=sharding),
        cond,
    )


def over_devices(cond: Cond, mesh: Mesh | None) -> PyTree:
    """Spreads the rows of a condition; whole on every device where they do not divide evenly."""
    if mesh is None:
        return cond
    even = num_rows(cond) % row_shards(mesh) == 0
    return place(cond, rows_over(mesh) if even else replicated(mesh))


def spread_bundle(bundle: Bundle, mesh: Mesh | None) -> Bundle:
    """Returns the model with its weights on every device, and conditions spread over them.

    Args:
        bundle: The model.
        mesh: Devices of this process, or None for one device.
    """
    if mesh is None:
        return bundle

    def encode(rows: Sequence[PromptRow]) -> Cond:
        return over_devices(bundle.encode(rows), mesh)

    params, null_cond = place((bundle.params, bundle.null_cond), replicated(mesh))
    return bundle._replace(params=params, null_cond=null_cond, encode=encode)

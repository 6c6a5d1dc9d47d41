"""Values of prompts, row by row: measured in batches that fit, kept, and gone on with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from memjax.core.types import Cond
from memjax.runtime.batching import RowProgram, over_rows
from memjax.runtime.hosts import barrier, first_alone, is_first
from memjax.studies.store import Store


def measure_rows(
    program: RowProgram,
    encode: Callable[[Sequence[int]], Cond],
    count: int,
    store: Store,
    values_of: Callable[[np.ndarray, Any], Float[np.ndarray, "k ..."]],
    *,
    size: int = 0,
    most: int = 16,
    mesh: Mesh | None = None,
    progress: Callable[[int], Callable[[int, int], None]] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Float[np.ndarray, "n ..."]:
    """Returns the values of all rows, those of an earlier, stopped run included.

    Args:
        program: What is measured.
        encode: Row numbers → conditions.
        count: How many rows there are.
        store: Where finished batches are kept; held by the caller.
        values_of: ``(row numbers, the program's output) →`` values, one row each; may refuse them.
        size: Rows a call; 0 takes what fits.
        most: The largest automatic size.
        mesh: Devices over which rows are spread.
        progress: Rows done by an earlier run → ``(done, all) →`` nothing.
        say: Told what is not taken, and what is there already.

    Raises:
        ValueError: If there is no row.
    """
    if not count:
        raise ValueError("there is no prompt to measure: give some.")
    with first_alone("parts"):
        values, todo = store.read_rows(count, say)
    barrier("parts read")
    done = count - len(todo)
    if done:
        say(f"{done} of {count} prompts were scored by an earlier run")
    if is_first():
        store.start()
    update = None if progress is None else progress(done)
    for numbers, out in over_rows(program, encode, todo, size=size, most=most, mesh=mesh):
        found = values_of(numbers, out)
        if is_first():
            store.keep_rows(numbers, found)
        if values is None:
            values = np.zeros((count, *found.shape[1:]), np.float32)
        values[numbers] = found
        done += len(numbers)
        if update is not None:
            update(done, count)
    assert values is not None  # there is a row, done before or now
    return values

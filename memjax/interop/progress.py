"""How far reading or writing has come, in bytes."""

import functools
from collections.abc import Callable

Progress = Callable[[int, int], None]
Told = Callable[[int], None]


def counter(progress: Progress | None, total: int) -> Told:
    """Adds up bytes and tells ``progress`` the sum and the total."""
    if progress is None:
        return lambda num_bytes: None
    return functools.partial(_count, progress, total, [0])


def _count(progress: Progress, total: int, done: list[int], num_bytes: int) -> None:
    done[0] += num_bytes
    progress(min(done[0], total), total)

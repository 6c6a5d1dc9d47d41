"""The processor cores of this process; without JAX, for processes that must not load it."""

import os


def usable_cores() -> int:
    """Returns how many cores this process may use; both sides use as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_memory(what: str, size: int) -> None:
    """Refuses what this machine's memory cannot hold, before it is allocated.

    Args:
        what: The flag or field and its value.
        size: Bytes.

    Raises:
        ValueError: With the bytes it would take and those there are.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > there:
        raise ValueError(
            f"{what} would take {size / 2**30:,.0f} GiB, and this machine has "
            f"{there / 2**30:,.1f} GiB of memory: give a smaller number."
        )

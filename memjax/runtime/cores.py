"""The processor cores of this process; without JAX, for processes that must not load it."""

import os


def usable_cores() -> int:
    """Returns how many cores this process may use; both sides use as many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

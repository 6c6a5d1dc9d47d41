"""Keeps freed memory mapped on Linux: XLA on CPU frees and re-faults its buffers every step.

On a one-million-parameter U-Net more than half of a training step went into page faults. Asking
glibc not to hand memory back removes them; it needs no environment variable and no other allocator.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1  # an int here: the largest one would still trim what is over 2 GiB, at every step
_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep freed memory; returns whether it could.

    Must run before large arrays exist. Does nothing elsewhere than on Linux with glibc, where
    another allocator is preloaded, or where ``MEMJAX_KEEP_MEMORY=0``.
    """
    preloaded = "malloc" in os.environ.get("LD_PRELOAD", "")
    if not sys.platform.startswith("linux") or preloaded:
        return False
    if os.environ.get("MEMJAX_KEEP_MEMORY", "1") == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD), (_M_ARENA_MAX, 1))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)

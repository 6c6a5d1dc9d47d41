"""Keeps freed memory mapped on Linux, and out of the way of the next step.

XLA on CPU frees its buffers and faults them in again at every step: more than half of a training
step of a one-million-parameter U-Net. Asking glibc not to hand memory back ends that; it needs no
environment variable and no other allocator. What is kept then also holds what the compiler left
behind, tens of thousands of holes of all sizes, which glibc searches for each of the thousands of
buffers a step: :func:`fill_holes_after_compilation` takes them out of its lists, which made the
steps after a compilation 1.7 times as fast.
"""

import ctypes
import os
import sys
import threading
from array import array
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1  # an int here: the largest one would still trim what is over 2 GiB, at every step
_PAD = 64 * 2**20
_LEAST_HOLE, _LARGEST_HOLE, _PAGE = 2**12, 2**26, 2**12
_DONTNEED = 4
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_LARGE_PROGRAM = 0.3  # seconds of compilation from which on it leaves holes worth filling
_LARGE_MODULE = 0.1  # seconds of lowering, for a program that will take at least that
_LEAVINGS = 1.0  # seconds after which JAX has dropped what it compiled from
_kept = _filling = False


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep freed memory; returns whether it could.

    Must run before large arrays exist. Does nothing elsewhere than on Linux with glibc, where
    another allocator is preloaded, or where ``MEMJAX_KEEP_MEMORY=0``.
    """
    global _kept
    preloaded = "malloc" in os.environ.get("LD_PRELOAD", "")
    if not sys.platform.startswith("linux") or preloaded:
        return False
    if os.environ.get("MEMJAX_KEEP_MEMORY", "1") == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _PAD, _M_ARENA_MAX: 1}
    taken = [mallopt(name, value) == 1 for name, value in settings.items()]
    _kept = all(taken)
    return _kept


def fill_holes_after_compilation() -> bool:
    """Fills the heap's holes after each long compilation of this process; returns whether it will.

    Only where :func:`keep_freed_memory` took effect. Before the next large program is compiled the
    holes are opened again, so that compilations share their memory.
    """
    global _filling
    if _filling or not _kept:
        return _filling
    libc = ctypes.CDLL(None)
    if getattr(libc, "mallinfo2", None) is None:  # glibc before 2.33
        return False
    import jax

    jax.monitoring.register_event_duration_secs_listener(_Filler(Holes(libc)).heard)
    _filling = True
    return True


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class Holes:
    """The free chunks of glibc's heap that lie below its top.

    Args:
        libc: The C library.
    """

    def __init__(self, libc: Any) -> None:
        self._libc = libc
        libc.mallinfo2.restype = _Mallinfo
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._filled = array("Q")

    def __len__(self) -> int:
        return len(self._filled)

    def fill(self) -> None:
        """Takes every hole of at least a page; their pages go back to the system.

        From the largest size down by halves, until an allocation comes from the top of the heap:
        then no hole of that size is left.
        """
        libc = self._libc
        top = libc.sbrk(0) - libc.mallinfo2().keepcost - 2 * ctypes.sizeof(ctypes.c_size_t)
        size = _LARGEST_HOLE
        while size >= _LEAST_HOLE:
            block = libc.malloc(size)
            if block is None:
                return
            if block >= top:
                libc.free(block)
                size //= 2
                continue
            self._filled.append(block)
            first, end = -(-block // _PAGE) * _PAGE, (block + size) // _PAGE * _PAGE
            if end > first:
                libc.madvise(first, end - first, _DONTNEED)

    def open(self) -> None:
        """Gives all of them back to the allocator."""
        for block in self._filled:
            self._libc.free(block)
        self._filled = array("Q")


class _Filler:
    """Fills the holes when a compilation ends, and once more when its leavings are gone."""

    def __init__(self, holes: Holes) -> None:
        self._holes, self._lock = holes, threading.Lock()
        self._later: threading.Timer | None = None

    def heard(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Hears how long JAX's compilations take."""
        begins = event == _LOWERED and duration_secs >= _LARGE_MODULE
        ends = event == _COMPILED and duration_secs >= _LARGE_PROGRAM
        if not begins and not ends:
            return
        import jax

        if jax.default_backend() != "cpu":  # its buffers do not come from this heap
            return
        with self._lock:
            if self._later is not None:
                self._later.cancel()
            self._holes.open()
            if ends:
                self._holes.fill()
                self._later = threading.Timer(_LEAVINGS, self._again)
                self._later.daemon = True
                self._later.start()

    def _again(self) -> None:
        with self._lock:
            if threading.current_thread() is self._later:  # no other program since
                self._holes.fill()

"""Freed memory stays mapped, however much of it there is, and its holes out of the way."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")

_BEGIN = """
import ctypes
from memjax.runtime import allocator

if not allocator.keep_freed_memory() or not hasattr(ctypes.CDLL(None), "mallinfo2"):
    raise SystemExit(77)
libc = ctypes.CDLL(None)
for name in ("malloc", "sbrk"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
"""

_FREED = """
block = libc.malloc({size})
assert block, "no address space"
top = libc.sbrk(0)
libc.free(block)
print(top - libc.sbrk(0))
"""

# Every second block stays in use, so that the others cannot grow together.
_HOLES = """
holes = allocator.Holes(libc)
blocks = [libc.malloc(40_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 7, 40_000)
for block in blocks[::2]:
    libc.free(block)


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096


def free_below_top():
    info = libc.mallinfo2()
    return info.fordblks - info.keepcost


before, pages = free_below_top(), resident()
holes.fill()
filled, fewer_pages = free_below_top(), resident()
highest = max(blocks)
above = libc.malloc(20_000) > highest
holes.open()
print(before > 35e6, filled < 0.2 * before, pages - fewer_pages > 15e6, above, len(holes) == 0)
print(free_below_top() >= 0.95 * before, libc.malloc(20_000) < highest)
"""

_HEARD = """
import jax, jax.numpy as jnp
from jax._src import monitoring

assert allocator.fill_holes_after_compilation() and allocator.fill_holes_after_compilation()
listeners = monitoring.get_event_duration_listeners()
owners = [getattr(listener, "__self__", None) for listener in listeners]
(filler,) = [owner for owner in owners if isinstance(owner, allocator._Filler)]
steps = []
filler._holes.fill = lambda: steps.append("fill")
filler._holes.open = lambda: steps.append("open")
allocator._LARGE_PROGRAM = allocator._LARGE_MODULE = 1e9
jax.jit(lambda x: x + 1)(jnp.ones(3)).block_until_ready()
print(steps)
allocator._LARGE_PROGRAM = allocator._LARGE_MODULE = 0.0
allocator._LEAVINGS = 0.01
x = jnp.ones(3)
steps.clear()
jax.jit(lambda x: x + 2)(x).block_until_ready()
filler._later.join()
print(steps)
"""


def run(program, **environ):
    kept = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "MEMJAX_KEEP_MEMORY")}
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + program],
        capture_output=True,
        text=True,
        env=kept | {"JAX_PLATFORMS": "cpu"} | environ,
    )
    if done.returncode == 77:
        pytest.skip("no glibc, or an old one")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("size", [2**20, 3 * 2**30])  # addresses alone, no page is touched
def test_nothing_is_handed_back(size):
    assert run(_FREED.format(size=size)) == ["0"]


def test_holes_are_filled_and_opened_again():
    assert run(_HOLES) == ["True True True True True", "True True"]


def test_holes_are_filled_after_long_compilations_only():
    first, second = run(_HEARD)
    assert first == "[]"
    assert second == "['open', 'open', 'fill', 'fill']"  # lowered, compiled, once more


def test_nothing_is_filled_where_nothing_is_kept():
    program = "print(allocator.fill_holes_after_compilation())"
    done = subprocess.run(
        [sys.executable, "-c", f"from memjax.runtime import allocator\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False"]

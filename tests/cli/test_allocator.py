"""Freed memory stays mapped, however much of it there is."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes
from memjax.cli.allocator import keep_freed_memory

if not keep_freed_memory():
    raise SystemExit(77)
libc = ctypes.CDLL(None)
for name in ("malloc", "sbrk"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
block = libc.malloc({size})
assert block, "no address space"
top = libc.sbrk(0)
libc.free(block)
print(top - libc.sbrk(0))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
@pytest.mark.parametrize("size", [2**20, 3 * 2**30])  # addresses alone, no page is touched
def test_nothing_is_handed_back(size):
    environ = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "MEMJAX_KEEP_MEMORY")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(size=size)],
        capture_output=True,
        text=True,
        env=environ,
    )
    if done.returncode == 77:
        pytest.skip("no glibc")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 0

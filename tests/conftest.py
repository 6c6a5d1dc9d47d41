"""Strict defaults for every test."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    """A fresh typed key."""
    return jax.random.key(0)


_ENOUGH = 3 << 30  # bytes a test process may hold before it forgets its compiled programs


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Forgets compiled programs after a file, once they have grown large."""
    yield
    if _resident_bytes() > _ENOUGH:
        jax.clear_caches()
        gc.collect()

"""Compiled programs kept on disk, so that a second start does not compile them again."""

import os
from pathlib import Path

import jax

FOLDER = Path("~/.cache/memjax/compiled")


def keep_compiled() -> Path | None:
    """Keeps programs that take over a second to compile, on accelerators; returns where.

    Where ``JAX_COMPILATION_CACHE_DIR`` is set JAX does so by itself, on CPUs too; there it is not
    the default, since programs of one processor may not run on the next. ``MEMJAX_COMPILED=0``
    keeps nothing.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("MEMJAX_COMPILED") == "0":
        return None
    if jax.default_backend() == "cpu":
        return None
    folder = FOLDER.expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder

"""memjax: train diffusion models, find what they memorized, explain it, take it away again.

Submodules load on first use: ``import memjax`` touches neither a backend nor a heavy library.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_SUBMODULES = (
    "core",
    "data",
    "detectors",
    "evaluate",
    "explain",
    "interop",
    "mitigations",
    "models",
    "report",
    "runs",
    "runtime",
    "sampling",
    "studies",
    "tools",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"memjax.{name}")
    raise AttributeError(f"module 'memjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])

"""Foreign models and weights, read and written without torch.

``load``, ``save``, ``convert``, ``make_bundle`` and ``tiny_pipeline`` are for Stable Diffusion
models; :mod:`memjax.interop.published` and :mod:`memjax.interop.clip.load` read published encoders.
"""

import importlib
from typing import Any

_STABLE_DIFFUSION = ("Pipeline", "convert", "load", "make_bundle", "save", "tiny_pipeline")


def __getattr__(name: str) -> Any:
    if name in _STABLE_DIFFUSION:
        return getattr(importlib.import_module("memjax.interop.stable_diffusion"), name)
    raise AttributeError(f"module 'memjax.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_STABLE_DIFFUSION])

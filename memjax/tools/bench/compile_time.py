"""How long the first call takes: cold, and with a persistent compilation cache that is filled."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memjax.tools.bench.memjax_side import memjax_side
from memjax.tools.bench.task import Settings
from memjax.tools.bench.worker import Worker

TARGETS = {"train": "training step", "sample": "sampling", "detect": "detection"}


def measure_compile(
    allocator: str,
    config: Mapping[str, Any],
    settings: Settings,
    targets: tuple[str, ...] = tuple(TARGETS),
) -> dict[str, Any]:
    """Measures from the first call to the first result, each time in a fresh process.

    The cold call fills an empty cache folder (as ``JAX_COMPILATION_CACHE_DIR`` does), from which
    the next process's call reads. Encoded prompts and the training state are ready before.

    Args:
        allocator: ``keep`` or ``default``.
        config: The plain configuration.
        settings: How much is measured; training is one step.
        targets: Some of :data:`TARGETS`.

    Returns:
        For each target ``cold`` and ``cached``: seconds, processor time, and the second call.
    """
    settings = settings._replace(steps=1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for target in targets:
            cache = str(Path(folder) / target)
            calls = [_first_call(allocator, config, settings, target, cache) for _ in range(2)]
            found[target] = dict(zip(("cold", "cached"), calls, strict=True))
    return found


def _first_call(
    allocator: str, config: Mapping[str, Any], settings: Settings, target: str, cache: str
) -> dict[str, float]:
    with Worker("memjax", allocator, memjax_side, config, settings, target, cache) as side:
        side.call("prepare", target)
        value, first = side.call(target)
        second = side.call(target)[1]
    if not np.all(np.isfinite(value)):
        raise ValueError(
            f"{TARGETS[target]} computed a value that is not finite, expected finite ones: lower "
            "--config.train.learning_rate."
        )
    return {
        "seconds": first.wall,
        "cpu_seconds": first.cpu,
        "second_call_seconds": second.wall,
    }

"""What made a result: versions, device, configuration, seed, checkpoint; nothing personal."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import jax

import memjax
from memjax.runtime.json import to_plain

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of memjax, Python and the libraries that decide the numbers."""
    found = {"memjax": memjax.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def config_digest(config: Mapping[str, Any]) -> str:
    """Returns the sha256 of a configuration, the same for any order of its keys."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(
    config: Mapping[str, Any],
    seed: int,
    checkpoint_step: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Returns what belongs at the head of every output file.

    Args:
        config: The whole configuration; only its digest is kept here.
        seed: The run's seed.
        checkpoint_step: Step of the weights used; None where there is no checkpoint.
        **extra: Further facts (e.g. ``checkpoint_sha256``, ``git_commit``), kept as given.

    .. note:: No user name, host name or folder is looked up; what ``extra`` says is the caller's.
    """
    device = jax.devices()[0]
    return {
        "config_sha256": config_digest(config),
        "seed": int(seed),
        "checkpoint_step": None if checkpoint_step is None else int(checkpoint_step),
        "utc": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.platform,
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
        "versions": versions(),
        **to_plain(extra),
    }

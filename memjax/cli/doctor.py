"""memjax doctor

Says which versions and devices there are, where caches lie, what is missing and how to get it.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

from memjax.runs.config import bundled_configs
from memjax.runtime.allocator import keep_freed_memory

_NEEDED = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ml_collections", "numpy",
    "scipy", "scikit-learn", "pillow", "matplotlib", "jinja2", "tensorboardX", "safetensors",
    "transformers", "huggingface_hub",
)  # fmt: skip
_OPTIONAL = {
    "torch": "parity tests and memjax bench: pip install 'memjax[parity]'",
    "diffusers": "parity tests and memjax bench: pip install 'memjax[parity]'",
    "gcsfs": "gs:// paths: pip install 'memjax[gcs]'",
    "tensorboard": "to look at the metrics: pip install tensorboard",
    "libtpu": "TPU: pip install 'memjax[tpu]'",
    "jax-cuda13-plugin": "NVIDIA GPU: pip install 'memjax[cuda]'",
}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> bool:
    complete = True
    print("packages")
    for name in _NEEDED:
        version = _version(name)
        complete &= version is not None
        print(f"  {name:<20}{version or 'MISSING: pip install ' + name}")
    print("optional")
    for name, hint in _OPTIONAL.items():
        print(f"  {name:<20}{_version(name) or '-  ' + hint}")
    return complete


def _devices() -> bool:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        text = str(error).split("\n")[0]
        print(f"devices\n  none could be started: {text}")
        if Path("/tmp/libtpu_lockfile").exists():
            print("  another process holds the TPU (/tmp/libtpu_lockfile): end it first.")
        return False
    print("devices")
    for device in devices[:8]:
        print(f"  {device.platform}: {device.device_kind}")
    if len(devices) > 8:
        print(f"  and {len(devices) - 8} more")
    if devices[0].platform == "cpu":
        has_nvidia = shutil.which("nvidia-smi") is not None
        hint = "there is an NVIDIA driver: pip install 'memjax[cuda]'" if has_nvidia else "CPU only"
        print(f"  {hint}; {os.cpu_count()} cores")
    return True


def _hub_cache() -> str:
    """Returns where models of the hub are kept, and whether the hub may be asked."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return "none (huggingface_hub is not installed)"
    folder = Path(constants.HF_HUB_CACHE)
    kept = sum(1 for _ in folder.glob("models--*")) if folder.is_dir() else 0
    if constants.HF_HUB_OFFLINE:
        return f"{folder}, {kept} models; offline (HF_HUB_OFFLINE), so no other can be fetched"
    return f"{folder}, {kept} models (HF_HOME moves it)"


def _settings() -> None:
    import jax

    print("settings")
    cache = jax.config.values["jax_compilation_cache_dir"]
    hint = "none (set JAX_COMPILATION_CACHE_DIR to keep compiled programs)"
    print(f"  compilation cache   {cache or hint}")
    kept = "kept mapped (fewer page faults)" if keep_freed_memory() else "left to the allocator"
    print(f"  freed memory        {kept}")
    print(f"  hub cache           {_hub_cache()}")
    free = shutil.disk_usage(".").free / 2**30
    print(f"  free disk here      {free:.0f} GiB")
    print(f"  configurations      {', '.join(bundled_configs())}")


def main() -> int:
    """Runs the command."""
    print(
        f"memjax {_version('memjax') or '(not installed)'}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )
    complete = _packages()
    working = _devices()
    _settings()
    print("all that is needed is there" if complete and working else "something is missing, above")
    return 0 if complete and working else 1

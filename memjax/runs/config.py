"""Configurations: found by bundled name or by path, checked before anything is compiled."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def config_folder() -> Path:
    """Returns the folder of the bundled configurations (of the wheel, or of the checkout)."""
    package = Path(__file__).resolve().parent.parent
    bundled = package / "configs"
    return bundled if bundled.is_dir() else package.parent / "configs"


def bundled_configs() -> list[str]:
    """Returns the names of the bundled configurations."""
    return sorted(p.stem for p in config_folder().glob("*.py") if not p.stem.startswith("_"))


def find_config(name: str) -> Path:
    """Returns the file of a configuration given by bundled name or by path.

    Raises:
        ValueError: If there is neither, with the nearest name.
    """
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    bundled = config_folder() / f"{path.name.removesuffix('.py')}.py"
    if path.parent == Path(".") and bundled.is_file():
        return bundled
    near = difflib.get_close_matches(path.name, bundled_configs(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"there is no configuration {name!r}.{hint} Give a path to a .py file or one of: "
        f"{', '.join(bundled_configs())}."
    )


def plain(config: Any) -> dict[str, Any]:
    """Returns a configuration as JSON-able dictionaries and lists."""

    def convert(value):
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):  # or a ConfigDict
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return [convert(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return convert(config)


_RANGES: dict[str, tuple[float, float]] = {
    "data.size": (8, 4096),
    "data.channels": (1, 4),
    "data.held_out_fraction": (0, 0.9),
    "data.in_memory_rows": (0, float("inf")),
    "data.num_workers": (0, 256),
    "data.duplicate_fraction": (0, 1),
    "train.steps": (1, float("inf")),
    "train.batch_size": (1, float("inf")),
    "train.learning_rate": (0, 10),
    "train.cond_dropout": (0, 1),
    "train.ema_decay": (0, 1),
    "train.checkpoint_every": (1, float("inf")),
    "train.keep_checkpoints": (2, float("inf")),
    "train.log_every": (1, float("inf")),
    "sampling.num_steps": (1, float("inf")),
    "sampling.guidance_scale": (-100, 100),
    "audit.options.generations": (1, 1024),
    "audit.options.target_fpr": (0, 0.999),
}


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses impossible values, all at once, before anything is read or compiled.

    Raises:
        ValueError: Naming every value that does not fit and what was expected.
    """
    wrong = []
    for name, (low, high) in _RANGES.items():
        value: Any = config
        for field in name.split("."):
            value = value[field]
        if not low <= value <= high:
            wrong.append(f"{name}={value} (expected {low} to {high})")
    sampling, audit = config["sampling"], config["audit"]
    if sampling["num_steps"] > config["diffusion"]["num_timesteps"]:
        wrong.append(
            f"sampling.num_steps={sampling['num_steps']} (expected at most "
            f"diffusion.num_timesteps={config['diffusion']['num_timesteps']})"
        )
    audit = audit["options"]
    for name in ("mitigate_steps",):
        outside = [s for s in audit[name] if not 0 <= s < sampling["num_steps"]]
        if outside:
            wrong.append(
                f"audit.options.{name}={tuple(audit[name])} (expected step indices from 0 to "
                f"sampling.num_steps-1={sampling['num_steps'] - 1})"
            )
    if not 1 <= audit["first_k"] <= sampling["num_steps"]:
        wrong.append(
            f"audit.options.first_k={audit['first_k']} (expected 1 to sampling.num_steps="
            f"{sampling['num_steps']})"
        )
    if wrong:
        raise ValueError("the configuration has impossible values: " + "; ".join(wrong) + ".")

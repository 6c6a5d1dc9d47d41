"""Configurations: found by bundled name or by path, checked before anything is compiled."""

import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memjax.core.names import MOST_SEED, SQUARES


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


_ON_DISK = ("chexpert", "nih", "mimic", "folder")  # kinds of data that are there already
_USUAL = (0, 1e9)  # of every number that has no row here
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, MOST_SEED),
    "data.size": (8, 4096),
    "data.channels": (1, 4),
    "data.held_out_fraction": (0, 0.9),
    "data.num_workers": (0, 256),
    "data.duplicate_fraction": (0, 1),
    "data.age_bin": (1, 200),
    "data.vocabulary_size": (1, 1e9),
    "data.digits.duplicated_class": (0, 9),
    "data.digits.seed": (0, MOST_SEED),
    "data.phantoms.size": (8, 4096),
    "data.phantoms.num_images": (0, 1e9),
    "data.phantoms.lateral_fraction": (0, 1),
    "data.phantoms.seed": (0, MOST_SEED),
    "data.scenes.size": (8, 4096),
    "data.scenes.num_images": (0, 1e9),
    "data.scenes.seed": (0, MOST_SEED),
    "model.block_out_channels": (1, 1e5),
    "model.cross_attention_dim": (1, 1e5),
    "model.layers_per_block": (1, 1000),
    "model.norm_num_groups": (1, 1e5),
    "model.num_heads": (1, 1e4),
    "model.patch_size": (1, 1024),
    "model.refine_channels": (0, 1e5),
    "model.transformer_layers": (0, 1000),
    "diffusion.num_timesteps": (1, 1e6),
    "diffusion.beta_start": (0, 1),
    "diffusion.beta_end": (0, 1),
    "train.steps": (1, 1e12),
    "train.batch_size": (1, 1e9),
    "train.learning_rate": (0, 10),
    "train.cond_dropout": (0, 1),
    "train.ema_decay": (0, 1),
    "train.filter_threshold": (-1e9, 1e9),  # of a detector whose scores may be negative
    "train.checkpoint_every": (1, 1e12),
    "train.keep_checkpoints": (2, 1e9),
    "train.log_every": (1, 1e12),
    "train.sample_every": (0, 1e12),
    "parallel.data": (-1, 1e6),
    "parallel.fsdp": (1, 1e6),
    "parallel.tensor": (1, 1e6),
    "parallel.slices": (1, 1e6),
    "parallel.accumulate": (1, 1e6),
    "parallel.fsdp_min_size": (0, 1e15),
    "sampling.num_steps": (1, 1e6),
    "sampling.guidance_scale": (-100, 100),
    "audit.classifier.batch_size": (1, 1e6),
    "audit.classifier.width": (1, 1e5),
    "audit.copy_encoder.batch_size": (1, 1e6),
    "audit.copy_encoder.width": (1, 1e5),
    "audit.options.generations": (1, 1024),
    "audit.options.target_fpr": (0, 0.999),
    "audit.options.radius": (0, math.inf),
    "audit.options.chunk": (1, 1e6),
    "audit.options.seed": (0, MOST_SEED),
    "fine_tune.rank": (1, 1e5),
    "fine_tune.repeats": (1, 1e9),
    "fine_tune.cache_batch": (1, 1e6),
    "fine_tune.tiny.channels": (1, 1e5),
    "fine_tune.tiny.text_width": (1, 1e5),
    "fine_tune.tiny.seed": (0, MOST_SEED),
    "seeds": (0, MOST_SEED),
    "measure.generations": (1, 1024),
    "measure.loss_timesteps": (1, 1000),
}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields every number of a configuration with the name of its field; those of lists, too."""
    if isinstance(value, Mapping):
        for key, field in value.items():
            yield from _numbers(field, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for field in value:
            yield from _numbers(field, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def out_of_range(config: Mapping[str, Any]) -> list[str]:
    """Returns one sentence's part for each number that is not finite or not in its range."""
    wrong = []
    for name, value in _numbers(config):
        low, high = _RANGES.get(name, _USUAL)
        if not low <= value <= high or (math.isinf(value) and high != math.inf):
            wrong.append(f"{name}={value} (expected {low} to {high:.15g})")
    return wrong


def check_sweep(config: Mapping[str, Any]) -> None:
    """Refuses impossible numbers of a sweep; its arms are checked as the runs they make.

    Raises:
        ValueError: Naming every value that does not fit and what was expected.
    """
    parts = {name: config[name] for name in ("seeds", "measure")}
    if wrong := [*out_of_range(parts), *out_of_range(config["base"])]:
        raise ValueError("the configuration has impossible values: " + "; ".join(wrong) + ".")


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses impossible values, all at once, before anything is read or compiled.

    Every number is finite and lies in its range.

    Raises:
        ValueError: Naming every value that does not fit and what was expected.
    """
    if "arms" in config or "train" not in config:
        raise ValueError(
            "the configuration is one of a sweep, expected one of a run: use memjax sweep, or "
            f"choose one of {', '.join(n for n in bundled_configs() if not n.startswith('sweep'))}."
        )
    wrong = out_of_range(config)
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


def check_data(config: Mapping[str, Any]) -> None:
    """Refuses data that cannot be read, before anything is drawn or loaded.

    Raises:
        ValueError: Naming the field, its value and what was expected.
    """
    data = config["data"]
    if data["channels"] not in (1, 3):
        raise ValueError(
            f"data.channels={data['channels']}, expected 1 (grayscale) or 3 (color): pass "
            "--config.data.channels=1."
        )
    if data["square"] not in SQUARES:
        raise ValueError(f"data.square={data['square']!r}, expected {', '.join(SQUARES)}.")
    root = str(data["root"])
    if data["kind"] in _ON_DISK and root and "://" not in root and not Path(root).is_dir():
        raise ValueError(
            f"data.root={root} is no folder, expected the one that holds the data: pass "
            "--config.data.root=DIR."
        )

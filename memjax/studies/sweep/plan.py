"""A sweep's plan: every arm of every seed as one checked configuration, and the run it needs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memjax.data.labels.space import suggestion
from memjax.runs.config import check_config, plain
from memjax.runs.defaults import default_config
from memjax.runs.train import check_sections

_TRAINED = ("seed", "data", "model", "diffusion", "train")


class Arm(NamedTuple):
    """One row of a sweep.

    Attributes:
        key: File name of the arm.
        title: Name in tables.
        value: Its place on the factor's axis.
        order: Its place in the sweep.
        seed: Seed of data, weights and noise.
        step: Checkpoint that is looked at; None: the last one.
        config: The whole configuration.
        run: Name of the run's folder; arms with the same training share one.
    """

    key: str
    title: str
    value: Any
    order: int
    seed: int
    step: int | None
    config: dict[str, Any]
    run: str

    @property
    def name(self) -> str:
        """Name of the row's own folder."""
        return f"{self.key}-{self.seed}"


def plan_arms(sweep: Mapping[str, Any]) -> list[Arm]:
    """Returns the arms of a sweep, seed by seed; every configuration is checked first.

    Raises:
        ValueError: If there is no arm or seed, a key stands twice, or a field or value does not
            fit, naming the arm.
    """
    if not sweep["arms"] or not sweep["seeds"]:
        raise ValueError(
            f"the sweep has {len(sweep['arms'])} arms and {len(sweep['seeds'])} seeds: give at "
            "least one of each."
        )
    keys = [arm["key"] for arm in sweep["arms"]]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the arm {key!r} stands twice in the sweep: give each its own key.")
    return [
        _planned(sweep, arm, order, int(seed))
        for seed in sweep["seeds"]
        for order, arm in enumerate(sweep["arms"])
    ]


def _planned(sweep: Mapping[str, Any], arm: Mapping[str, Any], order: int, seed: int) -> Arm:
    try:
        config = arm_config(sweep["base"], arm["set"], seed)
        check_config(config)
        check_sections(config)
        step = arm["step"]
        saved = _saved_steps(config["train"])
        if step is not None and step not in saved:
            raise ValueError(f"step={step} is no checkpoint of it (expected one of {saved})")
    except ValueError as error:
        raise ValueError(f"arm {arm['key']!r}: {error}") from error
    return Arm(arm["key"], arm["title"], arm["value"], order, seed, step, config, run_name(config))


def _saved_steps(train: Mapping[str, Any]) -> list[int]:
    every, steps = train["checkpoint_every"], train["steps"]
    return sorted({*range(every, steps + 1, every), steps})[-train["keep_checkpoints"] :]


def arm_config(base: Mapping[str, Any], changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Returns the base with an arm's changes and a seed.

    Raises:
        ValueError: If a dotted field does not exist; the nearest one is suggested.
    """
    config = json.loads(json.dumps(plain(base)))
    config["seed"] = seed
    if config["data"]["kind"] == "phantoms":
        config["data"]["phantoms"]["seed"] = seed
    for field, value in changes.items():
        *sections, name = field.split(".")
        place = config
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name not in place:
            known = suggestion(field, dotted(config))
            raise ValueError(f"the configuration has no field {field!r}{known}: mend the sweep.")
        place[name] = value
    return config


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested configuration as dotted names and values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides a run's weights: the trained fields that differ from the defaults."""
    usual = dotted(plain(default_config()))
    chosen = dotted({name: config[name] for name in _TRAINED})
    # The folder of drawn data does not decide what is drawn.
    drawn = config["data"]["kind"] == "phantoms"
    return {
        name: value
        for name, value in chosen.items()
        if usual.get(name) != value and not (drawn and name == "data.root")
    } | {"seed": config["seed"]}


def run_name(config: Mapping[str, Any]) -> str:
    """Returns the name of the folder of a configuration's run."""
    text = json.dumps(identity(config), sort_keys=True)
    return f"seed{config['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def data_root(config: Mapping[str, Any], workdir: Path) -> str:
    """Returns where an arm's data lie; arms with the same phantoms share one folder."""
    if config["data"]["kind"] != "phantoms" or config["data"]["root"]:
        return config["data"]["root"]
    text = json.dumps(config["data"]["phantoms"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return str(workdir / "data" / f"phantoms-{digest}" / "CheXpert-v1.0-small")

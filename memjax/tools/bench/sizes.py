"""The sizes of ``memjax bench``: a configuration, what is changed in it, how much is measured."""

import copy
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from memjax.tools.bench.stable_diffusion.task import SIZES as SD_SIZES
from memjax.tools.bench.task import Settings

DEMO, SD = "demo", "sd"


class ModelSize(NamedTuple):
    """One size of the model's cases.

    Attributes:
        config: Name of the bundled configuration.
        settings: How much is measured by default.
        changes: Values of the configuration by dotted name that differ here.
    """

    config: str
    settings: Settings
    changes: Mapping[str, Any]


# At chexpert-128 one forward of one image is 267 GFLOP, seconds on a laptop: little is asked for.
# float32 on both sides, since bfloat16 on CPU compares two emulations.
MODEL_SIZES = {
    DEMO: ModelSize("phantoms_demo", Settings(), {}),
    "chexpert-128": ModelSize(
        "chexpert_cfg",
        Settings(repeats=3, steps=1, prompts=2, mitigate_prompts=1, samples=1),
        {
            "model.dtype": "float32",
            "train.batch_size": 4,
            "sampling.num_steps": 5,
            "audit.options.first_k": 5,
            "audit.options.mitigate_steps": [2],
            "audit.options.generations": 1,
            "audit.options.first_step_iters": 3,
        },
    ),
}
ALL_SIZES = (*MODEL_SIZES, *SD_SIZES)


def asked_size(arguments: Sequence[str]) -> str | None:
    """Returns the size of the model's cases that a command line names, before it is parsed."""
    flat = itertools.chain.from_iterable(a.split("=", 1) for a in arguments)
    for flag, value in itertools.pairwise(flat):
        if flag.lstrip("-") in ("size", "what") and flag != value and value in MODEL_SIZES:
            return value
    return None


def config_for(arguments: Sequence[str]) -> str:
    """Returns the configuration of a command line that names none.

    Raises:
        ValueError: It names a size and a configuration, which are two answers to one question.
    """
    size = asked_size(arguments)
    given = any(a.lstrip("-").split("=")[0] == "config" for a in arguments)
    if size and given:
        raise ValueError(
            f"--size={size} brings the configuration {MODEL_SIZES[size].config}, and --config "
            "names another, expected one of the two; single values are set by "
            "--config.train.batch_size=2 and so on."
        )
    return MODEL_SIZES[size or DEMO].config


def choose(what: str, size: str | None) -> tuple[str, str | None]:
    """Returns ``(model, sd or knn; the size)`` from the two flags; None where none was named.

    Raises:
        ValueError: They do not go together.
    """
    if what in MODEL_SIZES:
        if size not in (None, what):
            raise ValueError(f"--size={size} is not {what}, expected one size: leave one away.")
        return "model", what
    if what == SD:
        if size in MODEL_SIZES:
            raise ValueError(
                f"--size={size} is none of Stable Diffusion's, expected {', '.join(SD_SIZES)}: "
                f"leave --what={SD} away."
            )
        return SD, size or "sd14"
    if what == "model":
        return (SD if size in SD_SIZES else "model"), size
    if size is not None:
        raise ValueError(
            f"--what={what} has no size {size}, expected --queries, --rows and --dim instead."
        )
    return what, None


def resized(config: Mapping[str, Any], size: str, given: Collection[str]) -> dict[str, Any]:
    """Returns a configuration with the size's changes, except those that were given.

    Args:
        config: The plain configuration.
        size: Name in :data:`MODEL_SIZES`.
        given: Dotted names of values set by hand.
    """
    changed = copy.deepcopy(dict(config))
    for name, value in MODEL_SIZES[size].changes.items():
        if name in given:
            continue
        *sections, field = name.split(".")
        section: Any = changed
        for part in sections:
            section = section[part]
        section[field] = value
    return changed

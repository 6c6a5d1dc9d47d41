"""The flags of ``memjax mitigate`` as values: checked, and turned into what the repair needs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.detectors import detect, null_or_refuse
from memjax.mitigations import Chain
from memjax.runs.model import Model
from memjax.runs.options import AuditOptions
from memjax.runs.outputs import progress_bar
from memjax.runs.references import clip_score, likeness_measures
from memjax.runs.train import audit_options
from memjax.sampling import SamplingOptions
from memjax.studies.mitigation.job import caption_of
from memjax.studies.mitigation.options import (
    TEXT_BASELINES,
    Setting,
    Target,
    baseline_arms,
    chain_arms,
    parse_targets,
)
from memjax.studies.mitigation.records import Arm, Measures
from memjax.studies.problems import ordinary_level, token_pool, word_pool


class Asked(NamedTuple):
    """The command's own flags, see :mod:`memjax.cli.mitigate`."""

    prompts: str
    out: str
    method: str | None
    mitigations: list[str]
    steps: list[str] | None
    num_iters: int | None
    learning_rate: float | None
    weight_decay: float | None
    target: float | None
    target_rms: float | None
    targets: list[str] | None
    targets_rms: list[str] | None
    radius: float | None
    negatives: str
    protect: list[str] | None
    references: str
    sscd: str
    clip: str
    measures: list[str]
    baselines: list[str]
    insertions: list[str]
    pictures: bool
    generations: int
    seed: int
    initial_noise: str
    chunk: int

    @property
    def several(self) -> bool:
        """Whether several targets were asked for; outputs then have an axis of targets."""
        return bool(self.targets or self.targets_rms)

    @property
    def any_target(self) -> bool:
        """Whether a target was given."""
        return self.several or self.target is not None or self.target_rms is not None


def check(asked: Asked, rows: Sequence[dict[str, Any]]) -> None:
    """Says mistakes of the flags before the model is read."""
    parse_targets(**given_targets(asked), dim=1)
    whole_numbers(asked.steps, "steps")
    arms = baseline_arms(asked.baselines, whole_numbers(asked.insertions, "insertions"), 1.0)
    if asked.negatives and asked.any_target:
        raise ValueError(
            f"--negatives={asked.negatives} sets the target, and a target is given too: leave one "
            "of them out."
        )
    chains_of(asked, AuditOptions())
    need = [arm.key for arm in arms if arm.key.rpartition("-")[0] in TEXT_BASELINES]
    need += ["--clip"] if asked.clip else []
    bare = [row["id"] for row in rows if caption_of(row) is None]
    if need and bare:
        raise ValueError(
            f"prompt {bare[0]!r} has no caption, which {need[0]} needs: give prompts in words."
        )


def given_targets(asked: Asked) -> dict[str, Any]:
    """Returns the four ways of giving targets, as :func:`parse_targets` takes them."""
    names = ("target", "target_rms", "targets", "targets_rms")
    return {name: getattr(asked, name) for name in names}


def whole_numbers(given: Sequence[str] | None, flag: str) -> tuple[int, ...]:
    """Returns the numbers of a flag; step indices begin at 0, all others at 1."""
    what = "step indices" if flag == "steps" else "whole numbers above 0"
    try:
        numbers = tuple(int(text) for text in given or ())
    except ValueError as error:
        raise ValueError(f"--{flag}={','.join(given or ())}: expected {what}.") from error
    if any(n < (flag != "steps") for n in numbers):
        raise ValueError(f"--{flag}={','.join(given or ())}: expected {what}.")
    return numbers


def chains_of(asked: Asked, options: AuditOptions) -> list[Chain]:
    """Returns what ``--mitigations`` names.

    Raises:
        ValueError: If one is unknown or does not fit, or flags of the method would be ignored.
    """
    chains = [options.chain(text) for text in asked.mitigations]
    keys = [arm.key for arm in chain_arms(chains)]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"--mitigations names {key} twice: leave one out.")
    if chains and asked.method is None:
        given = {
            "target": asked.any_target,
            "negatives": asked.negatives,
            "steps": asked.steps,
            "weight_decay": asked.weight_decay is not None,
        }
        for name, value in given.items():
            if value:
                raise ValueError(
                    f"--{name} is for --method, and only --mitigations is given: write it there, "
                    "such as embedding_first_step:target=0.02, or give --method too."
                )
    return chains


def options_of(model: Model, asked: Asked) -> AuditOptions:
    """Returns the model's options with the command line's changes."""
    changes: dict[str, Any] = {
        "num_iters": asked.num_iters,
        "first_step_iters": asked.num_iters,
        "learning_rate": asked.learning_rate,
        "first_step_learning_rate": asked.learning_rate,
        "radius": asked.radius,
        "protect": None if asked.protect is None else tuple(asked.protect),
        "generations": asked.generations,
        "seed": asked.seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(audit_options(model.config), **given)


def measures_of(asked: Asked, references: Sequence[Sequence[Path]]) -> Measures:
    """Opens the weights that images are measured with.

    Raises:
        ValueError: If SSCD is given but no prompt has a training image.
    """
    if asked.sscd and not any(references):
        raise ValueError(
            f"--sscd={asked.sscd} needs training images and no prompt has one: write the field "
            "'image' into the prompts, or give --references=FOLDER."
        )
    if asked.measures and not any(references):
        raise ValueError(
            f"--measures={','.join(asked.measures)} needs training images and no prompt has one: "
            "write the field 'image' into the prompts, or give --references=FOLDER."
        )
    likeness = likeness_measures(asked.sscd, asked.measures) if any(references) else []
    return Measures(likeness, clip_score(asked.clip))


def targets_of(
    model: Model,
    asked: Asked,
    negatives: Sequence[dict[str, Any]],
    noise: np.ndarray,
    sampling: SamplingOptions,
    options: AuditOptions,
    setting: Setting | None,
) -> list[Target]:
    """Returns the targets given, the ordinary prompts' level, or the run's own."""
    if setting is None:
        return []
    dim = int(np.prod(model.bundle.sample_shape))
    targets = parse_targets(**given_targets(asked), dim=dim)
    if negatives and setting.optimizes:
        bundle = model.bundle
        ordinary = detect(
            bundle.eps_fn,
            bundle.params,
            noise,
            bundle.encode(negatives),
            null_or_refuse(bundle.null_cond),
            bundle.schedule,
            chunk=asked.chunk or options.chunk,
            progress=progress_bar("negatives"),
            steps="first" if setting.steps == (0,) else "all",
            **sampling.static(),
        )
        level = options.target_ordinary * ordinary_level(ordinary.per_step, setting.steps, dim)
        targets = [Target(level, level, "rms")]
    if not targets:
        own = options.target_rms or 0.0
        targets = [Target(own, own, "rms")]
    return targets


def pools_of(
    model: Model, rows: Sequence[dict[str, Any]], arms: Sequence[Arm]
) -> dict[str, list[str]]:
    """Returns what the text baselines draw from.

    Raises:
        ValueError: If tokens are asked for of a model without a tokenizer.
    """
    pools = {"words": word_pool(rows), "pieces": []}
    if any("random_token" in arm.key for arm in arms):
        if model.pipeline is None:
            raise ValueError(
                f"random_token was asked for, but {model.name} has no tokenizer: take random_word."
            )
        pools["pieces"] = token_pool(model.pipeline.tokenizer)
    return pools

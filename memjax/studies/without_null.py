"""A model without a null condition: what an audit measures of it, what is left out, and why."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from memjax.core.names import COMPANION, RANDOM
from memjax.core.registry import title_of
from memjax.core.types import Bundle
from memjax.detectors import DETECTORS
from memjax.explain import EXPLANATIONS
from memjax.runs.model import Model
from memjax.runs.null import RANDOM_CONDITIONS, is_unconditional
from memjax.runs.options import ARMS, AuditOptions
from memjax.sampling import SamplingOptions
from memjax.studies.study import lacking, served

_NEED = "eps_uncond"


class LeftOut(NamedTuple):
    """What a model without a null condition cannot be asked.

    Attributes:
        detectors: Detectors that need an unconditional prediction.
        mitigations: Mitigations that do, or all of them where there are no prompts.
        explanations: Explanations, likewise.
        instead: Detectors and mitigations measured in their place, though not asked for.
        sentence: What was left out, why, and how to have it.
    """

    detectors: tuple[str, ...]
    mitigations: tuple[str, ...]
    explanations: tuple[str, ...]
    instead: tuple[str, ...]
    sentence: str


def served_options(
    options: AuditOptions, model: Model, images: int
) -> tuple[AuditOptions, LeftOut | None]:
    """Returns the options that a model serves, and what of the others is left out.

    Where none of the detectors asked for is served, all that need neither an unconditional
    prediction nor attention, nor evaluations of their own, are measured in their place; where none
    of the mitigations is, the baselines that are served.

    Args:
        options: What was asked for.
        model: The opened model.
        images: How many images will be made.
    """
    bundle, free = model.bundle, is_unconditional(model)
    if _NEED not in lacking(bundle):
        return options, None
    detectors = options.parsed_detectors()
    new = () if served(detectors, bundle) else _free_detectors()
    arms = () if free else tuple(arm for arm in options.arms if _serves(options, arm, bundle))
    unserved = tuple(arm for arm in options.arms if arm not in arms)
    baselines: tuple[str, ...] = ()
    if unserved and not arms and not free:
        baselines = tuple(arm for arm in ARMS if _serves(options, arm, bundle))
    found = LeftOut(
        tuple(name for name, detector in detectors.items() if _NEED in detector.needs),
        unserved,
        tuple(name for name, of in EXPLANATIONS.items() if _NEED in of.needs),
        (*new, *baselines),
        "",
    )
    said = _without_conditions(found, images) if free else _without_null(found)
    changed = dataclasses.replace(
        options, detectors=(*options.detectors, *new), arms=arms or baselines
    )
    return changed, found._replace(sentence=said)


def _free_detectors() -> tuple[str, ...]:
    """Returns them by name; first those that need least, so that the choice is made beforehand."""
    free = {
        name: len(of.needs)
        for name, of in DETECTORS.parse_all(list(DETECTORS)).items()
        if of.domain in ("state", "trajectory") and of.needs <= {"images"} and not of.evals
    }
    return tuple(sorted(free, key=lambda name: free[name]))


def _serves(options: AuditOptions, arm: str, bundle: Bundle) -> bool:
    return not any(m.needs & lacking(bundle) for m in options.chain(arm).mitigations)


def _without_null(found: LeftOut) -> str:
    names = [*found.detectors, *found.mitigations, *found.explanations]
    instead = (
        f", and {_listed(found.instead)} were measured in their place" if found.instead else ""
    )
    return (
        "This model was trained without a null condition (train.cond_dropout=0), so what needs an "
        f"unconditional prediction was left out ({_listed(names)}){instead}; to have it, give "
        "--null=random_labels (the mean prediction over random conditions) or --null=companion "
        "--companion=MODEL (an unconditional model of such images), or train with "
        "train.cond_dropout between 0 and 1."
    )


def _without_conditions(found: LeftOut, images: int) -> str:
    names = [*found.detectors, *found.mitigations, *found.explanations]
    return (
        "This model was trained without conditions (train.cond_dropout=1) and knows no prompts, so "
        f"what concerns a prompt was left out ({_listed(names)}) and {images} images from "
        f"{images} seeds were compared with the training images instead; to have it, train with "
        "train.cond_dropout below 1."
    )


def _listed(names: Sequence[str]) -> str:
    said = [title_of(name) for name in dict.fromkeys(names)]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def unguided(sampling: SamplingOptions, model: Model) -> SamplingOptions:
    """Returns the sampling that takes place: s = 1, ε_c alone, without a null condition."""
    if model.bundle.null_cond is not None:
        return sampling
    return dataclasses.replace(sampling, guidance_scale=1.0)


def null_notes(model: Model, asked: SamplingOptions, found: LeftOut | None) -> list[str]:
    """Returns sentences on what stands for the unconditional prediction, and on what is left out.

    Args:
        model: The model as it is audited.
        asked: How its images were to be made.
        found: What was left out.
    """
    kind = model.bundle.info.get("null")
    said = {
        RANDOM: f"the mean prediction over {RANDOM_CONDITIONS} random conditions",
        COMPANION: "the prediction of a companion model",
    }
    if kind in said:
        return [
            f"The unconditional prediction is {said[kind]} (--null={kind}), in guidance and in all "
            "that is measured with it."
        ]
    if found is None:
        return []
    notes = [found.sentence]
    if not is_unconditional(model) and asked.guidance_scale != 1.0:
        notes.append(
            "Images are made from the conditional prediction alone: the guidance scale "
            f"{asked.guidance_scale:g} is not used."
        )
    return notes


def left_out_section(found: LeftOut | None) -> dict[str, Any]:
    """Returns ``left_out`` of ``report.json``; nothing where all was served."""
    return {} if found is None else {"left_out": found._asdict()}

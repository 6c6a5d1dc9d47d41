"""A model with all that an audit asks it and compares it with."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from memjax.data.records import Record
from memjax.evaluate.features.base import FeatureFn
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.features.copy_encoder import CopyEncoder
from memjax.runs.model import Model
from memjax.runs.options import AuditOptions
from memjax.sampling import SamplingOptions
from memjax.studies.problems import check_methods
from memjax.studies.prompts.draw import (
    Candidates,
    PromptCounts,
    Prompts,
)
from memjax.studies.study import References
from memjax.studies.survey import Survey
from memjax.studies.without_null import LeftOut

Say = Callable[[str], None]
TakeSurvey = Callable[[Model, Candidates, AuditOptions, SamplingOptions], Survey]
SIDE = 64  # pixels at which large images are compared pixel by pixel


class Asked(NamedTuple):
    """What an audit is asked for beside the model's own configuration; None: as it says.

    Attributes:
        published: ``NAME=PATH`` of feature networks the user has weights of.
        clip: Scores images against captions; None without weights.
        side: Short side at which images of text models are compared pixel by pixel.
        generations: Images a prompt.
        chunk: Prompts at a time; 0 takes what the configuration says, or what fits.
        seed: Decides noise and draws.
        detectors: What is measured beside the magnitude.
        arms: Mitigations to try.
    """

    published: Sequence[str] = ()
    clip: ClipScore | None = None
    side: int = SIDE
    generations: int | None = None
    chunk: int = 0
    seed: int | None = None
    detectors: Sequence[str] | None = None
    arms: Sequence[str] | None = None


NOTHING_ASKED = Asked()


class Subject(NamedTuple):
    """A model, its prompts, and what its images are compared with.

    Attributes:
        model: The opened model.
        prompts: What it is asked.
        references: Real images and measures.
        sampling: How images are made.
        options: What is measured.
        caption: Prompt row → one line for an image's caption.
        features: For the distribution metrics.
        encoder: The copy encoder, where one was trained.
        source: How memorized prompts are known, where the audit cannot tell; "" where it can.
        words: What the report calls the data.
        data: What the data are, for provenance.
        notes: Sentences on what was left out, and why.
        seed: Of draws.
        left_out: What the model cannot be asked for lack of a null condition; None: nothing.
        survey: Scores of all training prompts; None where they were not scored.
        names: File of each training image.
        draw: Numbers of prompts → prompts, for an audit within a budget.
        counts: The configuration's numbers.
        budget: What was asked for within a budget; {} without one.
    """

    model: Model
    prompts: Prompts
    references: References
    sampling: SamplingOptions
    options: AuditOptions
    caption: Callable[[Mapping[str, Any]], str]
    features: Sequence[FeatureFn]
    encoder: CopyEncoder | None
    source: str
    words: dict[str, str]
    data: Any
    notes: Sequence[str]
    seed: int
    left_out: LeftOut | None = None
    survey: Survey | None = None
    names: Sequence[str] = ()
    draw: Callable[[PromptCounts], Prompts] | None = None
    counts: PromptCounts = PromptCounts()
    budget: Mapping[str, Any] = {}

    @property
    def flagged(self) -> Bool[np.ndarray, " p"] | None:
        """Which prompts the survey flagged, among the loudest."""
        if self.survey is None:
            return None
        rows = self.survey.candidates.group[: self.survey.candidates.trained]
        return self.prompts.loud & np.isin(self.prompts.group, rows[self.survey.flagged])


def surveyed(
    candidates: Callable[[], Candidates],
    model: Model,
    options: AuditOptions,
    sampling: SamplingOptions,
    survey: TakeSurvey | None,
    say: Say,
) -> Survey | None:
    """Scores the training prompts, where the magnitude has a meaning and is asked for."""
    if survey is None or not options.survey or model.bundle.null_cond is None:
        return None
    found = candidates()
    if not found.trained:
        return None
    say(f"scoring: {found.trained} training prompts and {len(found.rows) - found.trained} others")
    return survey(model, found, options, sampling)


def places(records: Sequence[Record]) -> list[str]:
    """Returns each file as it lies below the folder that all of them share."""
    parts = [str(record.path).split("/") for record in records]
    levels = zip(*(path[:-1] for path in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(path[shared:]) for path in parts]


def changed(options: AuditOptions, asked: Asked) -> AuditOptions:
    """Returns the options with what the command line changes."""
    changes: dict[str, Any] = {
        "generations": asked.generations,
        "seed": asked.seed,
        "detectors": None if asked.detectors is None else tuple(asked.detectors),
        "arms": None if asked.arms is None else tuple(asked.arms),
    }
    return dataclasses.replace(options, **{k: v for k, v in changes.items() if v is not None})


def within(options: AuditOptions, sampling: SamplingOptions) -> AuditOptions:
    """Returns the options within the steps that are sampled."""
    last = sampling.num_steps - 1
    steps = tuple(dict.fromkeys(min(s, last) for s in options.mitigate_steps))
    first_k = min(options.first_k, sampling.num_steps)
    return dataclasses.replace(options, mitigate_steps=steps, first_k=first_k)


def check(options: AuditOptions, sampling: SamplingOptions, *, text: bool) -> None:
    """Refuses methods that cannot be served, before any work."""
    chains = [options.chain(arm) for arm in options.arms]
    check_methods(
        options.parsed_detectors(),
        chains,
        sampling.num_steps,
        text=text,
        generations=options.generations,
    )

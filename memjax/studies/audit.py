"""The audit of any model: detect, explain, mitigate and validate, as the sections of a report."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memjax.runs.model import Model
from memjax.runs.null import is_unconditional
from memjax.runs.outputs import model_provenance
from memjax.runtime.json import read_summary, to_plain
from memjax.runtime.provenance import versions
from memjax.studies.budget import (
    LEVELS,
    Budget,
    budget_section,
    late_note,
    make_plan,
    nested,
    time_of_chunk,
)
from memjax.studies.problems import token_pool
from memjax.studies.prompts.draw import REPEATS
from memjax.studies.run import AS_ASKED, Audit, asked_problem, run_audit
from memjax.studies.samples import run_samples, sample_problem, sample_results
from memjax.studies.store import Store, content_digest
from memjax.studies.study import Progress, Study, once_made, run_arms
from memjax.studies.subjects.base import Subject
from memjax.studies.summary import audit_results
from memjax.studies.survey import (
    came_back_section,
    nearly_twice,
    returned_images,
    survey_section,
)
from memjax.studies.validation import distribution_section, validation_section
from memjax.studies.without_null import left_out_section

Say = Callable[[str], None]
_LISTED = 50  # training images that report.json names; returned.csv names all
_SAY: Say = partial(print, flush=True)


class Clock:
    """Says what is being done and keeps how long each part took."""

    def __init__(self, say: Say = _SAY) -> None:
        self._say = say
        self.seconds: dict[str, float] = {}
        self._name, self._began = "", time.monotonic()

    def __call__(self, text: str) -> None:
        self.stop()
        self._say(f"  {text}")
        self._name = text.split(":")[0]
        self._began = time.monotonic()

    def stop(self) -> None:
        """Ends the current part."""
        if self._name:
            spent = time.monotonic() - self._began
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent
        self._name = ""


class Audited(NamedTuple):
    """An audit and what made it.

    Attributes:
        subject: Model, prompts, real images.
        audit: What was measured.
        results: The sections of ``report.json``.
    """

    subject: Subject
    audit: Audit
    results: dict[str, Any]


def audit_store(subject: Subject, folder: Path) -> Store:
    """Returns where an audit keeps what it has done: all that decides its images is its job.

    Which prompts and mitigations are asked for decides the parts alone, so that a larger
    ``--budget`` goes on with those of a smaller one.
    """
    model, survey = subject.model, subject.survey
    options = dataclasses.asdict(subject.options)
    for name in ("chunk", "arms"):
        del options[name]
    rows = subject.prompts.rows if survey is None else survey.candidates.rows
    job = {
        "sampling": dataclasses.asdict(subject.sampling),
        **options,
        "model": content_digest((model.bundle.params, model.bundle.schedule)),
        "null condition": content_digest(model.bundle.null_cond),
        "conditions": content_digest(model.bundle.encode(rows[:1])),  # its text encoder's
        "source": model.config.get("source"),
        "side": subject.references.side,
        "dtype": model.dtype,
    }
    return Store(folder, to_plain(job))


def audit(
    subject: Subject,
    clock: Clock,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> Audited:
    """Audits a model.

    Args:
        subject: Of :func:`~memjax.studies.subjects.labels.label_subject` or ``caption_subject``.
        clock: Told what is being done.
        store: Where finished parts are kept; a stopped audit goes on from them.
        progress: Name → ``(prompts done, prompts in all) →`` nothing.
        budget: The time there is, which decides how many prompts are asked for; None takes the
            numbers of the configuration.
    """
    model, options, references = subject.model, subject.options, subject.references
    study = Study(
        model.bundle,
        options.parsed_detectors(),
        subject.sampling,
        references,
        options.chunk,
        store,
        progress,
    )
    if budget is not None:
        subject = _within(budget, subject, study, clock)
        options = subject.options
    if is_unconditional(model):
        found = run_samples(study, subject.prompts, options, clock)
        return _counted(subject, found, clock, budget)
    pieces = () if model.pipeline is None else token_pool(model.pipeline.tokenizer)
    found = run_audit(
        study, subject.prompts, options, clock, pieces=pieces, flagged=subject.flagged
    )
    if subject.source and found.memorized.any():
        found = found._replace(label_source=subject.source)
    return _counted(subject, found, clock, budget)


def _counted(subject: Subject, found: Audit, clock: Clock, budget: Budget | None) -> Audited:
    clock("counting")
    results = _results(subject, found)
    late = "" if budget is None else late_note(budget)
    if late:
        results["notes"] += f" {late}"
        results["budget"]["late"] = late
    return Audited(subject, found, results)


def _within(budget: Budget, subject: Subject, study: Study, clock: Clock) -> Subject:
    """Returns the subject with as many prompts and mitigations as the time allows."""
    draw, options = subject.draw, subject.options
    if draw is None:
        raise ValueError(f"--budget={budget.text} needs prompts that can be drawn.")
    clock("timing: how long a chunk of prompts takes")
    smallest = nested(draw, subject.counts, LEVELS[:1])

    def run(chunks: int) -> None:
        size = len(smallest.rows)
        make = sample_problem if is_unconditional(subject.model) else asked_problem
        arm = once_made(lambda: make(study, smallest, options))
        run_arms(study, {AS_ASKED: arm}, size, keys=smallest.keys, most=chunks)

    count = -(-len(smallest.rows) // options.chunk)
    seconds = time_of_chunk(study.store, run, count)
    steps = subject.sampling.num_steps
    plan = make_plan(draw, subject.counts, options, steps, seconds, budget.left)
    section = budget_section(plan, budget, options)
    return subject._replace(
        prompts=plan.prompts,
        options=plan.options,
        notes=[*subject.notes, section["sentence"]],
        budget=section,
    )


def _results(subject: Subject, found: Audit) -> dict[str, Any]:
    prompts, options = subject.prompts, subject.options
    references, bundle = subject.references, subject.model.bundle
    gallery = references.gallery
    if is_unconditional(subject.model):
        results = sample_results(found, prompts, gallery, references.judge, options)
    else:
        results = audit_results(
            found, prompts, gallery, bundle, references.judge, options, subject.caption
        )
    results |= left_out_section(subject.left_out)
    results |= {"budget": subject.budget} if subject.budget else {}
    near = None if subject.survey is None else nearly_twice(gallery)
    results |= survey_section(subject.survey, REPEATS, near)
    if not is_unconditional(subject.model):
        results["came_back"] = came_back_section(found, prompts, options)
    back = returned_images(found, prompts, gallery, subject.names)
    results["returned"] = {
        "num": len(back),
        "num_patients": len({image.patient for image in back}),
        "images": [image._asdict() for image in back[:_LISTED]],
    }
    results["data"] |= subject.words
    if references.side:
        results["similarity"]["measured_at"] = f"{references.side} pixels, antialiased bilinear"
    results["validation"] = validation_section(found, prompts, gallery, options)
    if found.before.clip is not None and references.clip is not None:
        results["clip"] = {
            "measure": references.clip.name,
            "memorized": _mean(found.before.clip[found.memorized]),
            "other": _mean(found.before.clip[~found.memorized]),
        }
    if subject.encoder is not None:
        results["validation"]["calibration"] = subject.encoder.calibration
    if subject.features or not references.side:
        results["distribution"] = distribution_section(found, prompts, gallery, subject.features)
    if subject.notes:
        results["notes"] = " ".join(subject.notes)
    return results


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def made(subject: Subject, clock: Clock, seconds: float) -> dict[str, Any]:
    """Returns what made a report: training, versions, configuration, provenance.

    Args:
        subject: What was audited.
        clock: What took how long.
        seconds: Of the whole audit.
    """
    model = subject.model
    config = model.config
    if model.pipeline is not None:
        options = vars(subject.options)
        config = {**config, "audit": {**config["audit"], "options": options}}
    return {
        "training": _training(model),
        "versions": versions(),
        "config": config,
        "seed": subject.seed,
        "provenance": {
            **model_provenance(model, subject.seed),
            **({} if model.bundle.null_cond is not None else {"null": "none"}),
            "sampling": dataclasses.asdict(subject.sampling),
            "data": subject.data,
            "audit_seconds": seconds,
            "audit_seconds_by_part": clock.seconds,
        },
    }


def _training(model: Model) -> dict[str, Any]:
    """Returns ``training.json``; a run that was stopped has none yet, and is audited as it is."""
    return read_summary(model.path / "training.json") if model.record else {}

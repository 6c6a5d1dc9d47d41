"""The audit of a model without conditions: images from seeds alone, and which are copies."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array
from memjax.evaluate.features.finding_classifier import Judge
from memjax.mitigations import Problem
from memjax.runs.options import AuditOptions
from memjax.studies.problems import problem_of
from memjax.studies.prompts.draw import SAMPLE, Gallery, Prompts
from memjax.studies.run import AS_ASKED, Audit
from memjax.studies.signal import signal_of
from memjax.studies.study import Study, observe
from memjax.studies.summary import data_sections, other_detectors, rule_rates
from memjax.studies.validation_scores import copied_summary


def sample_rows(count: int, gallery: Gallery) -> Prompts:
    """Returns one row an image; nothing is asked for.

    Args:
        count: Images.
        gallery: Decides what a judge would look for.
    """
    rows: list[dict[str, Any]] = [
        {"id": f"seed-{number:04d}", "family": SAMPLE, "labels": {}} for number in range(count)
    ]
    return Prompts(
        rows,
        np.full(count, SAMPLE),
        np.full(count, -1, np.int64),
        np.full((count, gallery.targets.shape[1]), -1),
        np.full(count, ""),
        np.ones(count),
        np.zeros(count, bool),
    )


def sample_noise(shape: tuple[int, ...], count: int, seed: int) -> Float[Array, "n 1 *d"]:
    """Returns one initial noise an image; that of image i does not depend on how many there are.

    Args:
        shape: Of one state.
        count: Images.
        seed: Of all of them.
    """
    key = jax.random.key(seed)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(np.arange(count))
    return jax.vmap(lambda own: jax.random.normal(own, (1, *shape)))(keys)


def sample_problem(study: Study, prompts: Prompts, options: AuditOptions) -> Problem:
    """Returns the sampling problem of images from seeds."""
    bundle = study.bundle
    noise = sample_noise(bundle.sample_shape, len(prompts.rows), options.seed)
    problem = problem_of(bundle, prompts.rows, bundle.encode(prompts.rows), noise, study.sampling)
    return problem._replace(own_noise=True)


def run_samples(
    study: Study,
    prompts: Prompts,
    options: AuditOptions,
    say: Callable[[str], None] = lambda text: None,
) -> Audit:
    """Makes one image a seed and compares all of them with the training images.

    Args:
        study: Model, real images, detectors whose needs are met.
        prompts: Of :func:`sample_rows`.
        options: The seed.
        say: Told what is being done.
    """
    count = len(prompts.rows)
    say(f"sampling: {count} images without a prompt")
    problem = sample_problem(study, prompts, options)
    judged = study._replace(against=study.references._replace(judge=None))  # nothing was asked
    seen = observe(judged, AS_ASKED, count, lambda: problem, prompts.asked, keys=prompts.keys)
    return Audit(
        before=seen,
        background=study.references.background,
        memorized=np.zeros(count, bool),
        label_source="",
        significance=np.zeros((0, 0)),
        arms=[],
        mitigated=np.zeros(0, np.int64),
        strata=prompts.strata,
    )


def sample_results(
    audit: Audit, prompts: Prompts, gallery: Gallery, judge: Judge | None, options: AuditOptions
) -> dict[str, Any]:
    """Returns the sections of ``report.json`` on images without prompts.

    Args:
        audit: Of :func:`run_samples`.
        prompts: Of :func:`sample_rows`.
        gallery: Real images.
        judge: The label classifier, of which the likeness of findings is made.
        options: What was measured.
    """
    detection = audit.before.detection
    signal = signal_of(detection, options)
    found: dict[str, Any] = {"generations": 1}
    if detection is not None and signal is not None:
        found |= {"forward_evals_run": detection.forward_evals}
        found |= {"signal": {"name": signal.name, "title": signal.title}}
    return {
        "detection": found,
        "samples": _samples(audit, gallery),
        "similarity": rule_rates(audit, {SAMPLE: np.arange(len(prompts.rows))}, 1),
        **_detectors(audit, prompts, options),
        **data_sections(gallery, judge),
    }


def _samples(audit: Audit, gallery: Gallery) -> dict[str, Any]:
    """How many images are copies, of which training images, and how many of those are repeated."""
    near = audit.before.similarity
    copied = near.index[near.is_copy_adaptive]
    rows = np.unique(copied)
    repeated = gallery.copies > 1
    return {
        "num": len(near.index),
        "num_copied": len(copied),
        "num_copied_of_repeated": int(repeated[copied].sum()),
        "num_returned": len(rows),
        "num_returned_repeated": int(repeated[rows].sum()),
        "num_repeated": int(repeated.sum()),
    }


def _detectors(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    """Returns every detector with its figures for the question whether an image is a copy."""
    found = other_detectors(audit, prompts, options)
    detection, copied = audit.before.detection, audit.before.similarity.is_copy_adaptive
    rows: list[dict[str, Any]] = []
    if detection is None or not found:
        return found
    for row in found["detectors"]["rows"]:
        kept = {key: row[key] for key in ("name", "steps", "extra_evals")}
        values = detection.per_generation(name=row["name"]).ravel()
        rows.append(kept | copied_summary(values, copied))
    return {"detectors": {**found["detectors"], "rows": rows}}


def sample_options(options: AuditOptions) -> AuditOptions:
    """Returns the options with one image a row, as many at a time as before."""
    return dataclasses.replace(options, chunk=options.chunk * options.generations, generations=1)

"""Measuring the arms of a sweep: what belongs to the data is made once and kept."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax.core.condition import take_rows
from memjax.data.records import Record, labels_of
from memjax.evaluate.denoising_loss import denoising_losses, loss_gap
from memjax.evaluate.features.copy_encoder import CopyEncoder
from memjax.evaluate.statistics.bootstrap import rate_interval
from memjax.runs.outputs import sampling_options
from memjax.runs.train import audit_options
from memjax.studies.gallery import draw_prompts, read_images
from memjax.studies.ladder import build_rungs, calibrated
from memjax.studies.prompts.draw import Gallery, PromptCounts
from memjax.studies.store import Store
from memjax.studies.study import References, Study, make_references
from memjax.studies.subjects.labels import make_judge
from memjax.studies.sweep.metrics import (
    ArmLook,
    Metrics,
    measure_conditional,
    measure_unconditional,
    metric,
)
from memjax.training.run import Run

Say = Callable[[str], None]


class SweepData(NamedTuple):
    """All that depends on the data alone.

    Attributes:
        references: Real images and what generated ones are compared by.
        kept: The record of each training image.
        held: The held-out records.
        encoder: The copy encoder, with its figures on planted copies.
    """

    references: References
    kept: list[Record]
    held: list[Record]
    encoder: CopyEncoder | None

    @property
    def gallery(self) -> Gallery:
        """The real images."""
        return self.references.gallery


def make_sweep_data(
    run: Run, say: Say, published: tuple[str, ...] = (), keep: Path | None = None
) -> SweepData:
    """Reads a run's data and trains what judges its images."""
    gallery, kept, held = read_images(run)
    audit = run.config["audit"]
    say("training the label classifier")
    judge = make_judge(gallery, run.config)
    rungs, encoder = build_rungs(
        audit["rungs"],
        gallery,
        judge,
        seed=run.config["seed"],
        encoder=audit["copy_encoder"],
        published=published,
        keep=keep,
        say=say,
    )
    references = make_references(gallery, judge, calibrated(rungs, gallery))
    return SweepData(references, kept, held, encoder)


def measure_arm(
    run: Run, studio: SweepData, measure: Mapping[str, Any], store: Store | None = None
) -> ArmLook:
    """Measures one arm.

    Args:
        run: The opened run.
        studio: Of its data.
        measure: The ``measure`` section of the sweep.
        store: Where finished parts are kept; a stopped measurement goes on from them.
    """
    options = dataclasses.replace(
        audit_options(run.config), generations=measure["generations"], seed=run.config["seed"]
    )
    free = run.config["train"]["cond_dropout"] >= 1.0
    count = measure["unconditional"] if free else options.generations
    key = jax.random.fold_in(jax.random.key(options.seed), 11)
    noise = jax.random.normal(key, (count, *run.bundle.sample_shape))
    study = Study(
        run.bundle,
        options.parsed_detectors(),
        sampling_options(run),
        studio.references._replace(judge=None) if free else studio.references,
        options.chunk,
        store,
    )
    if free:
        look = measure_unconditional(study, np.asarray(noise))
    else:
        names = [field.name for field in dataclasses.fields(PromptCounts)]
        given = {name: measure[name] for name in names if name in measure}
        counts = PromptCounts(**{"repeats": 2, **given})  # what was planted is known
        prompts = draw_prompts(run, studio.gallery, studio.kept, studio.held, counts)
        look = measure_conditional(study, np.asarray(noise), prompts, options)
    background = rate_interval(studio.references.background.is_copy_adaptive)
    metrics = look.metrics | _losses(run, studio, measure)
    metrics["copy_rate_background"] = metric(background, len(studio.held))
    return look._replace(metrics=metrics)


def _losses(run: Run, studio: SweepData, measure: Mapping[str, Any]) -> Metrics:
    """Denoising loss of images trained once, repeated and held out, under the same noise."""
    rng = np.random.default_rng([run.config["seed"], 79])
    gallery, kept = studio.gallery, studio.kept
    most = measure["loss_rows"]
    once = rng.permutation(np.flatnonzero(gallery.copies == 1))[:most]
    repeated = np.flatnonzero(gallery.copies > 1)[:most]
    held = rng.permutation(len(studio.held))[:most]
    out: Metrics = {}
    seen = {}
    for name, images, records in (
        ("train", gallery.train[once], [kept[i] for i in once]),
        ("repeated", gallery.train[repeated], [kept[i] for i in repeated]),
        ("held_out", gallery.held_out[held], [studio.held[i] for i in held]),
    ):
        if not records:
            continue
        rows = [{"id": "row", "labels": labels_of(r, run.label_space)} for r in records]
        cond = run.bundle.encode(rows)
        seen[name] = denoising_losses(
            run.bundle,
            images,
            partial(take_rows, cond),
            timesteps=measure["loss_timesteps"],
            seed=run.config["seed"],
        )
        out[f"{name}_loss"] = metric(rate_interval(seen[name].mean(axis=1)), len(records))
    if "train" in seen and "held_out" in seen:
        out["loss_gap"] = metric(loss_gap(seen["train"], seen["held_out"]), len(held))
    return out

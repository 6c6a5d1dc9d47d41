"""The audit of a text model: captions instead of labels, large pictures, no finding classifier."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np

from memjax.cli.auditing import Clock, write_prompt_files
from memjax.cli.captioned import Captioned, read_gallery
from memjax.cli.common import model_provenance, progress_bar
from memjax.cli.fitting import fitting_size
from memjax.cli.ladder import COPY_ENCODER, calibrated, published_rung
from memjax.cli.models import Model
from memjax.cli.training import audit_options
from memjax.core.types import Bundle
from memjax.detectors import null_or_refuse
from memjax.evaluate.audit import Audit, run_audit
from memjax.evaluate.audit_figures import audit_figures
from memjax.evaluate.audit_inputs import Gallery, PromptCounts, Prompts
from memjax.evaluate.audit_results import audit_results
from memjax.evaluate.audit_validation import distribution_section, validation_section
from memjax.evaluate.caption_prompts import choose_caption_prompts
from memjax.evaluate.clip_score import ClipScore
from memjax.evaluate.copy_encoder import CopyEncoder, train_copy_encoder
from memjax.evaluate.features import FeatureFn
from memjax.evaluate.ladder import Rung, copy_rung, feature_rung, pixel_rungs
from memjax.evaluate.large_pictures import at_side, features_at_side, on_bytes
from memjax.evaluate.options import EMBEDDING, FIRST_STEP, NOISE, AuditOptions
from memjax.evaluate.picture_size import reduced
from memjax.evaluate.provenance import versions
from memjax.evaluate.report import ReportPaths, write_report
from memjax.sampling import SamplingOptions

ARMS = (FIRST_STEP, EMBEDDING, NOISE)  # the published setting is the chosen one
SIDE = 64  # pixels at which pictures are compared pixel by pixel
_ENOUGH = 64  # training pictures for a copy encoder of one's own


class TextAudit(NamedTuple):
    """What an audit of a text model is asked for.

    Attributes:
        published: ``NAME=PATH`` of feature networks the user has weights of.
        clip: Scores pictures against captions; None without weights.
        side: Short side at which pixels are compared.
        generations: Pictures a prompt; None: the options' own.
        chunk: Prompts at a time; 0 takes what fits.
        seed: Decides noise, draws and the copy encoder.
    """

    published: Sequence[str] = ()
    clip: ClipScore | None = None
    side: int = SIDE
    generations: int | None = None
    chunk: int = 0
    seed: int = 0


def audit_text_model(
    model: Model,
    workdir: str | Path,
    data: Captioned,
    sampling: SamplingOptions,
    asked: TextAudit,
) -> tuple[ReportPaths, dict[str, Any]]:
    """Audits a Stable-Diffusion-format model and writes its report.

    Args:
        model: The opened model.
        workdir: Folder for ``report.html``, ``report.json`` and ``audit_prompts/``; a fine-tuned
            run's own ``prompts/``, which name its pictures, stay as they are.
        data: Real pictures with captions.
        sampling: How pictures are made.
        asked: What is measured.
    """
    null_or_refuse(model.bundle.null_cond)
    clock, workdir = Clock(), Path(workdir)
    began, bundle = time.monotonic(), model.bundle
    clock("reading pictures")
    edge = picture_side(model)
    asked = asked._replace(side=min(asked.side, edge))
    gallery, kept, memorized = read_gallery(data, edge)
    counts = PromptCounts(**model.config["audit"]["prompts"])
    prompts = choose_caption_prompts(
        gallery, kept, data.held, counts, memorized=memorized, seed=asked.seed
    )
    options = _options(model, sampling, asked, len(prompts.rows))
    rungs, encoder = build_text_rungs(gallery, model.config, asked, clock)
    clock("measuring the background")
    ladder = calibrated(rungs, gallery)
    audit = run_audit(
        bundle, prompts, gallery, None, sampling, options, ladder, clock,
        side=asked.side, clip=asked.clip, progress=progress_bar,
    )  # fmt: skip
    audit = audit._replace(label_source=data.source) if audit.memorized.any() else audit
    clock("counting")
    results = _results(audit, prompts, gallery, bundle, options, model, asked)
    if encoder is not None:
        results["validation"]["calibration"] = encoder.calibration
        features = [features_at_side(encoder, asked.side)]
        results["distribution"] = distribution_section(audit, gallery, features)
    clock("writing the report")
    figures = audit_figures(audit, prompts, gallery, bundle, options, caption_text, results)
    clock.stop()
    results |= _made(model, data, sampling, options, asked, clock, time.monotonic() - began)
    paths = write_report(workdir, results, figures.pictures, tables=figures.tables)
    write_prompt_files(workdir / "audit_prompts", prompts)
    return paths, results


def picture_side(model: Model) -> int:
    """Returns the edge of the model's pictures in pixels.

    Raises:
        ValueError: If they are no squares.
    """
    height, width, _ = model.bundle.sample_shape
    if height != width:
        raise ValueError(
            f"{model.name} makes pictures of {width}×{height} latents, expected squares: training "
            "pictures can be compared with squares alone."
        )
    return height * int(model.pipeline.vae.config.downscale)


def caption_text(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line for a picture's caption."""
    return shorten(str(row["caption"]), 110, placeholder=" …") or str(row["id"])


def _options(
    model: Model, sampling: SamplingOptions, asked: TextAudit, prompts: int
) -> AuditOptions:
    """Returns the model's options, within the steps that are sampled and the device's memory."""
    options = audit_options(model.config)
    last = sampling.num_steps - 1
    steps = tuple(dict.fromkeys(min(s, last) for s in options.mitigate_steps))
    options = dataclasses.replace(
        options,
        arms=ARMS,
        mitigate_steps=steps,
        first_k=min(options.first_k, sampling.num_steps),
        generations=asked.generations or options.generations,
        seed=asked.seed,
        protect=(),
    )
    fits = asked.chunk or fitting_size(
        model, options.generations, len(steps), options.num_iters, prompts
    )
    return dataclasses.replace(options, chunk=min(fits, prompts))


def build_text_rungs(
    gallery: Gallery, config: Mapping[str, Any], asked: TextAudit, say: Clock
) -> tuple[list[Rung], CopyEncoder | None]:
    """Returns pixel rungs at a stated size, published features at full size, and a copy encoder.

    Args:
        gallery: Real pictures.
        config: The model's; ``audit.rungs`` names the rungs of pixels.
        asked: Weights and size.
        say: Told what is being done.

    .. note:: The copy encoder is trained on the training pictures where there are at least 64.
    """
    side, names = asked.side, list(config["audit"]["rungs"])
    small = reduced(gallery.train[:1], side).shape[1:]
    rungs = [at_side(rung, side) for rung in pixel_rungs(small) if rung.name in names]
    encoder = None
    if len(gallery.train) >= _ENOUGH:
        say("training the copy encoder")
        encoder = train_copy_encoder(
            reduced(gallery.train, side),
            reduced(gallery.held_out, side),
            patients=gallery.patients,
            held_patients=gallery.held_patients,
            seed=asked.seed,
            **config["audit"][COPY_ENCODER],
        )
        rungs.append(at_side(copy_rung(encoder), side))
    return [*rungs, *(_full_size(entry) for entry in asked.published)], encoder


def _full_size(entry: str) -> Rung:
    """A published network's rung: it resizes pictures itself."""
    from memjax.cli.features import feature_fn

    published_rung_name, _, path = entry.partition("=")
    if not path:
        return published_rung(entry)  # says how it is written
    features: FeatureFn = on_bytes(feature_fn(published_rung_name, path))
    return feature_rung(features, name=published_rung_name)


def _results(
    audit: Audit,
    prompts: Prompts,
    gallery: Gallery,
    bundle: Bundle,
    options: AuditOptions,
    model: Model,
    asked: TextAudit,
) -> dict[str, Any]:
    results = audit_results(audit, prompts, gallery, bundle, None, options, caption_text)
    results["data"] |= {"name": "captioned pictures", "unit": "pictures", "foreign": model.name}
    results["similarity"]["measured_at"] = f"{asked.side} pixels, antialiased bilinear"
    results["validation"] = validation_section(audit, prompts, gallery, options)
    if audit.before.clip is not None and asked.clip is not None:
        results["clip"] = {
            "measure": asked.clip.name,
            "memorized": _mean(audit.before.clip[audit.memorized]),
            "other": _mean(audit.before.clip[~audit.memorized]),
        }
    return results


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _made(
    model: Model,
    data: Captioned,
    sampling: SamplingOptions,
    options: AuditOptions,
    asked: TextAudit,
    clock: Clock,
    seconds: float,
) -> dict[str, Any]:
    """Returns what made the report."""
    file = model.path / "training.json"
    training = json.loads(file.read_text()) if model.record and file.is_file() else {}
    config = {**model.config, "audit": {**model.config["audit"], "options": vars(options)}}
    notes = [f"Distances of pixels, and the rule for copies, are measured at {asked.side} pixels."]
    if not any(entry.startswith("sscd") for entry in asked.published):
        notes.append("Without SSCD's weights (--features=sscd=FILE) its figures are left out.")
    if asked.clip is None:
        notes.append("Without CLIP's weights (--clip=FOLDER) what pictures show is not measured.")
    return {
        "training": training,
        "versions": versions(),
        "config": config,
        "seed": asked.seed,
        "notes": " ".join(notes),
        "provenance": {
            **model_provenance(model, asked.seed),
            "sampling": dataclasses.asdict(sampling),
            "data": data.words,
            "audit_seconds": seconds,
            "audit_seconds_by_part": clock.seconds,
        },
    }

"""A model of text: asked for captions, and judged by CLIP."""

import dataclasses
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from memjax.evaluate.features.base import FeatureFn
from memjax.evaluate.features.copy_encoder import CopyEncoder, train_copy_encoder
from memjax.evaluate.similarity.ladder import (
    COPY_ENCODER,
    Rung,
    copy_rung,
    feature_rung,
    pixel_rungs,
)
from memjax.evaluate.similarity.resolution import reduced
from memjax.evaluate.similarity.rungs import at_side, features_at_side, on_bytes
from memjax.runs.model import Model
from memjax.runs.options import EMBEDDING, FIRST_STEP, NOISE, AuditOptions
from memjax.runs.train import audit_options
from memjax.sampling import SamplingOptions
from memjax.studies.fitting import fitting_size
from memjax.studies.gallery import Captioned, read_gallery
from memjax.studies.ladder import calibrated, published_rung
from memjax.studies.prompts.captions import caption_candidates, choose_caption_prompts
from memjax.studies.prompts.draw import (
    Gallery,
    PromptCounts,
    Prompts,
)
from memjax.studies.study import make_references
from memjax.studies.subjects.base import (
    NOTHING_ASKED,
    Asked,
    Say,
    Subject,
    TakeSurvey,
    changed,
    check,
    places,
    surveyed,
    within,
)
from memjax.studies.without_null import null_notes

TEXT_ARMS = (FIRST_STEP, EMBEDDING, NOISE)  # the published setting is the chosen one
_ENOUGH = 64  # training images for a copy encoder of one's own


def caption_subject(
    model: Model,
    data: Captioned,
    sampling: SamplingOptions,
    asked: Asked = NOTHING_ASKED,
    say: Say = lambda text: None,
    survey: TakeSurvey | None = None,
) -> Subject:
    """Returns a model of text with real images that have captions.

    Args:
        model: The opened model.
        data: Real images with captions.
        sampling: How images are made.
        asked: What is measured.
        say: Told what is being done.
        survey: Scores all training prompts; None leaves that out.
    """
    check(_asked_of_text(model, sampling, asked), sampling, text=True)
    say("reading images")
    edge, seed = image_side(model), asked.seed or 0
    asked = asked._replace(side=min(asked.side, edge), seed=seed)
    gallery, kept, memorized = read_gallery(data, edge)
    counts = PromptCounts(**model.config["audit"]["prompts"])
    found = surveyed(
        lambda: caption_candidates(
            gallery, kept, data.held, most=_asked_of_text(model, sampling, asked).survey, seed=seed
        ),
        model,
        _asked_of_text(model, sampling, asked),
        sampling,
        survey,
        say,
    )
    loudest = () if found is None else found.loudest

    def draw(counts: PromptCounts) -> Prompts:
        return choose_caption_prompts(
            gallery, kept, data.held, counts, memorized=memorized, seed=seed, loudest=loudest
        )

    prompts = draw(counts)
    options = _text_options(model, sampling, asked, len(prompts.rows))
    rungs, encoder = build_text_rungs(gallery, model.config, asked, say)
    say("measuring the background")
    references = make_references(
        gallery, None, calibrated(rungs, gallery), side=asked.side, clip=asked.clip
    )
    notes = null_notes(model, sampling, None)
    notes.append(
        f"Distances of pixels, and the rule for copies, are measured at {asked.side} pixels."
    )
    if not any(entry.startswith("sscd") for entry in asked.published):
        notes.append("Without SSCD's weights (--features=sscd=FILE) its figures are left out.")
    if asked.clip is None:
        notes.append("Without CLIP's weights (--clip=FOLDER) what images show is not measured.")
    return Subject(
        model,
        prompts,
        references,
        sampling,
        options,
        caption_text,
        [] if encoder is None else [features_at_side(encoder, asked.side)],
        encoder,
        data.source,
        {"name": "captioned images", "unit": "images", "foreign": model.name},
        data.words,
        notes,
        seed,
        None,
        found,
        places(kept),
        draw,
        counts,
    )


def _asked_of_text(model: Model, sampling: SamplingOptions, asked: Asked) -> AuditOptions:
    """Returns a text model's options but for what fits into memory."""
    options = dataclasses.replace(audit_options(model.config), arms=TEXT_ARMS, protect=())
    return within(changed(options, asked), sampling)


def _text_options(
    model: Model, sampling: SamplingOptions, asked: Asked, prompts: int
) -> AuditOptions:
    """Returns a text model's options, within the device's memory too."""
    options = _asked_of_text(model, sampling, asked)
    fits = asked.chunk or fitting_size(
        model, options.generations, len(options.mitigate_steps), options.num_iters, prompts
    )
    return dataclasses.replace(options, chunk=min(fits, prompts))


def image_side(model: Model) -> int:
    """Returns the edge of the model's images in pixels.

    Raises:
        ValueError: If they are no squares.
    """
    height, width, _ = model.bundle.sample_shape
    if height != width:
        raise ValueError(
            f"{model.name} makes images of {width}×{height} latents, expected squares: training "
            "images can be compared with squares alone."
        )
    return height * int(model.pipeline.vae.config.downscale)


def caption_text(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line for an image's caption."""
    return shorten(str(row["caption"]), 110, placeholder=" …") or str(row["id"])


def build_text_rungs(
    gallery: Gallery, config: Mapping[str, Any], asked: Asked, say: Say
) -> tuple[list[Rung], CopyEncoder | None]:
    """Returns pixel rungs at a stated size, published features at full size, and a copy encoder.

    Args:
        gallery: Real images.
        config: The model's; ``audit.rungs`` names the rungs of pixels.
        asked: Weights and size.
        say: Told what is being done.

    .. note:: The copy encoder is trained on the training images where there are at least 64.
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
            seed=asked.seed or 0,
            **config["audit"][COPY_ENCODER],
        )
        rungs.append(at_side(copy_rung(encoder), side))
    return [*rungs, *(_full_size(entry) for entry in asked.published)], encoder


def _full_size(entry: str) -> Rung:
    """A published network's rung: it resizes images itself."""
    from memjax.studies.published import feature_fn

    published_rung_name, _, path = entry.partition("=")
    if not path:
        return published_rung(entry)  # says how it is written
    features: FeatureFn = on_bytes(feature_fn(published_rung_name, path))
    return feature_rung(features, name=published_rung_name)

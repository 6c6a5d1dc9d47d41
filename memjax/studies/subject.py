"""A model with all that an audit asks it and compares it with: here alone the two worlds differ.

A run of labels is asked for findings or classes and judged by a classifier; a model of text is
asked for captions and judged by CLIP. What comes after takes either.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from memjax.data.labels.captions import classes_text
from memjax.data.labels.space import FINDINGS
from memjax.data.records import Record
from memjax.evaluate.features.base import FeatureFn, FindingFeatures
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.features.copy_encoder import CopyEncoder, train_copy_encoder
from memjax.evaluate.features.finding_classifier import Judge, train_judge
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
from memjax.runs.null import is_unconditional
from memjax.runs.options import EMBEDDING, FIRST_STEP, NOISE, AuditOptions
from memjax.runs.train import FILMS, audit_options
from memjax.sampling import SamplingOptions
from memjax.studies.fitting import fitting_size
from memjax.studies.gallery import Captioned, as_told, draw_prompts, read_gallery, read_images
from memjax.studies.ladder import build_rungs, calibrated, published_rung
from memjax.studies.problems import check_methods
from memjax.studies.prompts.captions import caption_candidates, choose_caption_prompts
from memjax.studies.prompts.draw import (
    SAMPLE,
    Candidates,
    Gallery,
    PromptCounts,
    Prompts,
    label_candidates,
)
from memjax.studies.samples import sample_options, sample_rows
from memjax.studies.study import References, make_references
from memjax.studies.survey import Survey
from memjax.studies.without_null import LeftOut, null_notes, served_options, unguided

Say = Callable[[str], None]
TakeSurvey = Callable[[Model, Candidates, AuditOptions, SamplingOptions], Survey]
TEXT_ARMS = (FIRST_STEP, EMBEDDING, NOISE)  # the published setting is the chosen one
SIDE = 64  # pixels at which large images are compared pixel by pixel
_ENOUGH = 64  # training images for a copy encoder of one's own


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


def label_subject(
    model: Model,
    sampling: SamplingOptions,
    asked: Asked = NOTHING_ASKED,
    say: Say = lambda text: None,
    survey: TakeSurvey | None = None,
) -> Subject:
    """Returns a run of labels with the settings and data of its configuration.

    Args:
        model: The opened run.
        sampling: How images are made.
        asked: What the command line changes.
        say: Told what is being done.
        survey: Scores all training prompts; None leaves that out.

    Raises:
        ValueError: If nothing was held out.
    """
    config = model.config if asked.seed is None else {**model.config, "seed": asked.seed}
    options = _within(_changed(audit_options(config), asked), sampling)
    if asked.chunk:
        options = dataclasses.replace(options, chunk=asked.chunk)
    _check(options, sampling, text=False)
    say("reading pictures")
    gallery, kept, held = read_images(model, config["seed"])
    counts = PromptCounts(**config["audit"]["prompts"])
    told, others = as_told(model, kept), as_told(model, held)
    found = _surveyed(
        lambda: label_candidates(
            gallery, told, others, model.label_space, most=options.survey, seed=options.seed
        ),
        model,
        options,
        sampling,
        survey,
        say,
    )
    loudest = () if found is None else found.loudest

    def asked_for(counts: PromptCounts) -> Prompts:
        return draw_prompts(
            model, gallery, kept, held, counts, seed=config["seed"], loudest=loudest
        )

    draw, prompts, generations = asked_for, asked_for(counts), options.generations
    options, left_out = served_options(options, model, len(prompts.rows) * generations)
    if is_unconditional(model):
        options = sample_options(options)

        def draw(counts: PromptCounts) -> Prompts:
            return sample_rows(len(asked_for(counts).rows) * generations, gallery)

        prompts = draw(counts)
    say("training the finding classifier")
    judge = make_judge(gallery, config)
    rungs, encoder = build_rungs(
        config["audit"]["rungs"],
        gallery,
        judge,
        seed=config["seed"],
        encoder=config["audit"]["copy_encoder"],
        published=asked.published,
        say=say,
    )
    say("measuring the background")
    references = make_references(gallery, judge, calibrated(rungs, gallery))
    features: list[FeatureFn] = [] if judge is None else [FindingFeatures(judge)]
    return Subject(
        model,
        prompts,
        references,
        unguided(sampling, model),
        options,
        readable,
        features if encoder is None else [*features, encoder],
        encoder,
        "",
        data_words(config),
        model.record["data"],
        null_notes(model, sampling, left_out),
        config["seed"],
        left_out,
        found,
        _places(kept),
        draw,
        counts,
    )


def _surveyed(
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


def _places(records: Sequence[Record]) -> list[str]:
    """Returns each file as it lies below the folder that all of them share."""
    parts = [str(record.path).split("/") for record in records]
    levels = zip(*(path[:-1] for path in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(path[shared:]) for path in parts]


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
    _check(_asked_of_text(model, sampling, asked), sampling, text=True)
    say("reading pictures")
    edge, seed = image_side(model), asked.seed or 0
    asked = asked._replace(side=min(asked.side, edge), seed=seed)
    gallery, kept, memorized = read_gallery(data, edge)
    counts = PromptCounts(**model.config["audit"]["prompts"])
    found = _surveyed(
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
        notes.append("Without CLIP's weights (--clip=FOLDER) what pictures show is not measured.")
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
        {"name": "captioned pictures", "unit": "pictures", "foreign": model.name},
        data.words,
        notes,
        seed,
        None,
        found,
        _places(kept),
        draw,
        counts,
    )


def _changed(options: AuditOptions, asked: Asked) -> AuditOptions:
    """Returns the options with what the command line changes."""
    changes: dict[str, Any] = {
        "generations": asked.generations,
        "seed": asked.seed,
        "detectors": None if asked.detectors is None else tuple(asked.detectors),
        "arms": None if asked.arms is None else tuple(asked.arms),
    }
    return dataclasses.replace(options, **{k: v for k, v in changes.items() if v is not None})


def _within(options: AuditOptions, sampling: SamplingOptions) -> AuditOptions:
    """Returns the options within the steps that are sampled."""
    last = sampling.num_steps - 1
    steps = tuple(dict.fromkeys(min(s, last) for s in options.mitigate_steps))
    first_k = min(options.first_k, sampling.num_steps)
    return dataclasses.replace(options, mitigate_steps=steps, first_k=first_k)


def _check(options: AuditOptions, sampling: SamplingOptions, *, text: bool) -> None:
    """Refuses methods that cannot be served, before any work."""
    chains = [options.chain(arm) for arm in options.arms]
    check_methods(options.parsed_detectors(), chains, sampling.num_steps, text=text)


def _asked_of_text(model: Model, sampling: SamplingOptions, asked: Asked) -> AuditOptions:
    """Returns a text model's options but for what fits into memory."""
    options = dataclasses.replace(audit_options(model.config), arms=TEXT_ARMS, protect=())
    return _within(_changed(options, asked), sampling)


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
            f"{model.name} makes pictures of {width}×{height} latents, expected squares: training "
            "pictures can be compared with squares alone."
        )
    return height * int(model.pipeline.vae.config.downscale)


def caption_text(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line for an image's caption."""
    return shorten(str(row["caption"]), 110, placeholder=" …") or str(row["id"])


_OF_RADIOGRAPHS = {name.casefold() for name in FINDINGS} | {
    *("view", "sex", "age", "markers", "caption")
}


def readable(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line for an image's caption."""
    labels = row.get("labels")
    if row.get("family") == SAMPLE:
        return str(row["id"]).replace("-", " ")
    if labels is None:
        return str(row.get("caption", row["id"]))
    classes = {k: v for k, v in labels.items() if k.casefold() not in _OF_RADIOGRAPHS}
    if classes or labels.get("caption"):
        said = shorten(str(labels.get("caption", "")), 72, placeholder=" …")
        return "; ".join(text for text in (classes_text(classes), said) if text)
    positive = [k for k, v in labels.items() if v == "positive"]
    person = ", ".join(str(labels[k]) for k in ("sex", "age", "view") if labels.get(k))
    marker = " ".join(labels.get("markers", ()))
    text = ", ".join(positive).lower() or "no finding named"
    return f"{text}; {person}" + (f"; marker {marker}" if marker else "")


def make_judge(gallery: Gallery, config: Mapping[str, Any]) -> Judge | None:
    """Trains the label classifier on the gallery."""
    return train_judge(
        gallery.train,
        gallery.targets,
        gallery.held_out,
        gallery.held_targets,
        gallery.names,
        seed=config["seed"],
        **config["audit"]["classifier"],
    )


def data_words(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the report calls the data and one of its images."""
    kind = config["data"]["kind"]
    if kind in FILMS:
        return {"name": "chest X-rays", "unit": "films"}
    return {"name": "digits" if kind == "digits" else "pictures", "unit": "pictures"}


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

"""A run of labels: asked for findings or classes, and judged by a classifier."""

import dataclasses
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from memjax.data.labels.captions import classes_text
from memjax.data.labels.space import FINDINGS
from memjax.evaluate.features.base import FeatureFn, FindingFeatures
from memjax.evaluate.features.finding_classifier import Judge, train_judge
from memjax.runs.model import Model
from memjax.runs.null import is_unconditional
from memjax.runs.train import FILMS, audit_options
from memjax.sampling import SamplingOptions
from memjax.studies.gallery import as_told, draw_prompts, read_images
from memjax.studies.ladder import build_rungs, calibrated
from memjax.studies.prompts.draw import (
    SAMPLE,
    Gallery,
    PromptCounts,
    Prompts,
    label_candidates,
)
from memjax.studies.samples import sample_options, sample_rows
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
from memjax.studies.without_null import null_notes, served_options, unguided


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
    options = within(changed(audit_options(config), asked), sampling)
    if asked.chunk:
        options = dataclasses.replace(options, chunk=asked.chunk)
    check(options, sampling, text=False)
    say("reading images")
    gallery, kept, held = read_images(model, config["seed"])
    counts = PromptCounts(**config["audit"]["prompts"])
    told, others = as_told(model, kept), as_told(model, held)
    found = surveyed(
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
        places(kept),
        draw,
        counts,
    )


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
    return {"name": "digits" if kind == "digits" else "images", "unit": "images"}

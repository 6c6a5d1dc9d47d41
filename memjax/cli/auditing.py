"""From a trained run to its report."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from memjax.cli.common import sampling_options
from memjax.cli.ladder import build_rungs, calibrated
from memjax.cli.models import Model
from memjax.cli.prompts import write_rows
from memjax.cli.training import FILMS, audit_options, data_of
from memjax.data.captions import classes_text
from memjax.data.chexpert import check_images
from memjax.data.dataset import load_images
from memjax.data.labels import FINDINGS
from memjax.data.records import Record
from memjax.data.uncertainty import likeliest
from memjax.detectors import null_or_refuse
from memjax.evaluate.audit import run_audit
from memjax.evaluate.audit_figures import audit_figures
from memjax.evaluate.audit_inputs import (
    Gallery,
    PromptCounts,
    Prompts,
    choose_prompts,
    make_gallery,
)
from memjax.evaluate.audit_results import audit_results
from memjax.evaluate.audit_validation import distribution_section, validation_section
from memjax.evaluate.copy_encoder import CopyEncoder
from memjax.evaluate.features import FeatureFn, FindingFeatures
from memjax.evaluate.finding_classifier import Judge, train_judge
from memjax.evaluate.provenance import provenance, versions
from memjax.evaluate.report import ReportPaths, write_report
from memjax.training.data import policies_of
from memjax.training.run import Run

_MOST_PICTURES = 20_000


class Clock:
    """Says what is being done and keeps how long each part took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._began = "", time.monotonic()

    def __call__(self, text: str) -> None:
        self.stop()
        print(f"  {text}", flush=True)
        self._name = text.split(":")[0]
        self._began = time.monotonic()

    def stop(self) -> None:
        """Ends the current part."""
        if self._name:
            spent = time.monotonic() - self._began
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent
        self._name = ""


def read_pictures(run: Run | Model) -> tuple[Gallery, list[Record], list[Record]]:
    """Reads the run's data again: the gallery, the record of each training row, held-out records.

    Raises:
        ValueError: If nothing was held out.
    """
    config = run.config
    data = data_of({**config, "data": {**config["data"], "check": False}}, run.path)
    shape = {name: config["data"][name] for name in ("size", "channels", "square")}
    train, _ = check_images(_some(data.train, config["seed"]))
    held, _ = check_images(_some(data.held_out, config["seed"]))
    if not held:
        raise ValueError(
            "there are no held-out pictures to compare with: give the data a valid.csv or set "
            "data.held_out_fraction above 0."
        )
    gallery, kept = make_gallery(
        train, load_images(train, **shape), held, load_images(held, **shape)
    )
    return gallery, kept, held


def _some(records: list, seed: int) -> list:
    """Returns at most 20,000 records, drawn by seed."""
    if len(records) <= _MOST_PICTURES:
        return list(records)
    rows = np.random.default_rng([seed, 78]).permutation(len(records))[:_MOST_PICTURES]
    return [records[i] for i in np.sort(rows)]


def draw_prompts(
    run: Run | Model,
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    counts: PromptCounts,
) -> Prompts:
    """Draws prompts that say what the model was told.

    Where uncertain labels were resampled in training, it never saw the token "uncertain": prompts
    then name the likelier state.
    """
    policies = policies_of(run.config["data"].get("uncertainty", "multiclass"))
    return choose_prompts(
        gallery,
        likeliest(kept, policies),
        likeliest(held, policies),
        run.label_space,
        counts,
        seed=run.config["seed"],
    )


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


_OF_RADIOGRAPHS = {name.casefold() for name in FINDINGS} | {
    *("view", "sex", "age", "markers", "caption")
}


def readable(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line for a picture's caption."""
    labels = row.get("labels")
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


def audit_run(
    run: Run | Model, workdir: str | Path, published: Sequence[str] = ()
) -> tuple[ReportPaths, dict[str, Any]]:
    """Audits a run and writes its report.

    Args:
        run: The opened run.
        workdir: Folder for ``report.html``, ``report.json`` and ``prompts/``.
        published: ``NAME=PATH`` of feature networks the user has weights of.
    """
    null_or_refuse(run.bundle.null_cond)
    clock, workdir = Clock(), Path(workdir)
    began = time.monotonic()
    config, options = run.config, audit_options(run.config)
    clock("reading pictures")
    gallery, kept, held = read_pictures(run)
    counts = PromptCounts(**config["audit"]["prompts"])
    prompts = draw_prompts(run, gallery, kept, held, counts)
    clock("training the finding classifier")
    judge = make_judge(gallery, config)
    rungs, encoder = build_rungs(
        config["audit"]["rungs"],
        gallery,
        judge,
        seed=config["seed"],
        encoder=config["audit"]["copy_encoder"],
        published=published,
        say=clock,
    )
    clock("measuring the background")
    ladder = calibrated(rungs, gallery)
    sampling = sampling_options(run)
    audit = run_audit(run.bundle, prompts, gallery, judge, sampling, options, ladder, clock)
    clock("counting")
    results = audit_results(audit, prompts, gallery, run.bundle, judge, options, readable)
    results["data"] |= data_words(config)
    results["validation"] = validation_section(audit, prompts, gallery, options)
    if encoder is not None:
        results["validation"]["calibration"] = encoder.calibration
    results["distribution"] = distribution_section(audit, gallery, feature_fns(judge, encoder))
    clock("writing the report")
    figures = audit_figures(audit, prompts, gallery, run.bundle, options, readable, results)
    clock.stop()
    training = json.loads((run.path / "training.json").read_text())
    results |= {
        "training": training,
        "versions": versions(),
        "config": config,
        "seed": config["seed"],
        "provenance": {
            **provenance(config, config["seed"], run.step),
            "sampling": dataclasses.asdict(sampling),
            "data": run.record["data"],
            "audit_seconds": time.monotonic() - began,
            "audit_seconds_by_part": clock.seconds,
        },
    }
    paths = write_report(workdir, results, figures.pictures, tables=figures.tables)
    write_prompt_files(workdir / "prompts", prompts)
    return paths, results


def feature_fns(judge: Judge | None, encoder: CopyEncoder | None) -> list[FeatureFn]:
    """Returns the feature extractors that were trained for an audit."""
    found: list[FeatureFn] = [] if judge is None else [FindingFeatures(judge)]
    return found if encoder is None else [*found, encoder]


def data_words(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the report calls the data and one of its pictures."""
    kind = config["data"]["kind"]
    if kind in FILMS:
        return {"name": "chest X-rays", "unit": "films"}
    return {"name": "digits" if kind == "digits" else "pictures", "unit": "pictures"}


def write_prompt_files(folder: Path, prompts: Prompts) -> None:
    """Writes the audit's prompts, one JSONL a family, for use with the other commands."""
    folder.mkdir(parents=True, exist_ok=True)
    for family in dict.fromkeys(prompts.family.tolist()):
        rows = [r for r, f in zip(prompts.rows, prompts.family, strict=True) if f == family]
        write_rows(folder / f"{family}.jsonl", rows)


def summary_table(results: Mapping[str, Any]) -> str:
    """Returns the report's main figures as a short table."""
    detection, mitigation = results["detection"], results["mitigation"]
    similarity = results["similarity"]
    chosen = detection[detection["default"]]
    rows = [
        (f"AUC ({detection['default']})", chosen, "auc"),
        ("  against trained once", chosen["against_once"], "auc"),
        ("  against held out", chosen["against_held_out"], "auc"),
        ("copies: memorised prompts", similarity, "copy_rate_memorized"),
        ("copies: other prompts", similarity, "copy_rate_other"),
        ("copies: real held-out pictures", similarity, "copy_rate_background"),
        ("copies after mitigation", mitigation, "copy_rate_after"),
        *_asked_rows(results),
    ]
    return "\n".join(f"  {name:<32}{_figure(section, key)}" for name, section, key in rows)


def _asked_rows(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """What pictures show of what was asked: by the classifier, or by CLIP for models of text."""
    text = "foreign" in results.get("data", {})
    name, key = ("CLIP score", "clip") if text else ("findings as asked", "label_agreement")
    mitigation = results["mitigation"]
    return [(f"{name}, {when}", mitigation, f"{key}_{when}") for when in ("before", "after")]


def _figure(section: Mapping[str, Any], key: str) -> str:
    value, low, high = (section.get(k) for k in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return "  not measured"
    return f"{value:6.2f}" + ("" if low is None else f"   [{low:.2f}, {high:.2f}]")

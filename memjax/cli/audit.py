"""memjax audit --model=RUN_OR_FOLDER --workdir=DIR

Detects, explains, mitigates and validates, and writes report.html and report.json. A memjax run is
audited with the settings and data of its configuration. A Stable-Diffusion-format model needs
--data=DIR, a folder of captioned training images (those repeated in training stand there several
times, or metadata.jsonl says repeats; the sub-folder valid was not trained on), or
--prompts=memorized.jsonl with --negatives=ordinary.jsonl and images in the field image. A
fine-tuned run knows its data itself.

Nobody need know what was repeated: every different training prompt is scored at the first step
(training_scores.csv), the threshold is fitted on held-out prompts, and images are made for the
loudest, for a random sample and for held-out prompts; returned.csv names the training images that
came back. --budget=10m asks for as much as fits into that time; the same command with more goes on.

A run without a null condition (train.cond_dropout=0) is audited without what needs an unconditional
prediction, or with --null=random_labels, or --null=companion and --companion=MODEL. A run without
conditions (train.cond_dropout=1) is asked for images from seeds: how many copy a training image.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from memjax.cli.flags import (
    chunk_flag,
    force_flag,
    model_flags,
    null_flags,
    prompts_flag,
    require,
    sampling_flags,
)
from memjax.detectors import DETECTORS
from memjax.mitigations import MITIGATIONS
from memjax.report.pages.audit_files import FILES, prompts_folder, write_audit
from memjax.report.pages.base import ReportPaths
from memjax.runs.model import Model
from memjax.runs.options import AuditOptions
from memjax.runs.outputs import progress_bar
from memjax.runs.references import clip_score
from memjax.runtime.locks import hold
from memjax.sampling import SamplingOptions
from memjax.studies.audit import Clock, audit, audit_store
from memjax.studies.budget import Budget, parse_seconds
from memjax.studies.gallery import Captioned, from_fine_tuning, from_folder, from_prompts
from memjax.studies.ladder import published_rung
from memjax.studies.prompts.draw import Candidates
from memjax.studies.store import Store
from memjax.studies.subjects.base import NOTHING_ASKED, Asked, Subject
from memjax.studies.subjects.captions import caption_subject
from memjax.studies.subjects.labels import label_subject
from memjax.studies.survey import Survey, survey_job, take_survey
from memjax.training.run import RUN_FILE

_SCORES = "scores.parts"  # folder of the training prompts' scores, until the report is written
FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder for the report (default: the run's).", flag_values=FLAGS
)
_FEATURES = flags.DEFINE_list(
    "features",
    [],
    "Weights you have, as NAME=PATH: sscd, sscd_large, xrv, rad_dino, dinov2, inception. Each "
    "becomes a rung of the similarity ladder; nothing is downloaded.",
    flag_values=FLAGS,
)
_DATA = flags.DEFINE_string(
    "data", "", "Text models: folder of captioned training pictures.", flag_values=FLAGS
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "", "Text models: folder of captioned pictures never trained on.", flag_values=FLAGS
)
_PROMPTS = prompts_flag(FLAGS)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "Text models: file of prompts not memorised.", flag_values=FLAGS
)
_CLIP = flags.DEFINE_string(
    "clip", "", "Text models: folder of a CLIP model, for the CLIP score.", flag_values=FLAGS
)
_SIDE = flags.DEFINE_integer(
    "compare_at",
    64,
    "Text models: short side in pixels at which pictures are compared pixel by pixel.",
    lower_bound=8,
    flag_values=FLAGS,
)
_GENERATIONS = flags.DEFINE_integer(
    "generations",
    None,
    "Images a prompt (default: the configuration's).",
    lower_bound=1,
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Seed of noise and draws (default: the configuration's).", flag_values=FLAGS
)
_DETECTORS = flags.DEFINE_list(
    "detectors",
    None,
    "Detectors to measure beside the magnitude, NAME:field=value; `help` lists them.",
    flag_values=FLAGS,
)
_ARMS = flags.DEFINE_list(
    "mitigations",
    None,
    "Mitigations to try, NAME:field=value, joined by + where several are applied together; the "
    "first is the chosen one (default: the configuration's); `help` lists them.",
    flag_values=FLAGS,
)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard what a stopped audit has kept.", flag_values=FLAGS
)
_BUDGET = flags.DEFINE_string(
    "budget",
    "",
    "How long the audit may take, such as 10m or 1h: decides how many prompts are asked for; the "
    "same command with a larger one goes on from there.",
    flag_values=FLAGS,
)
_NULL = null_flags(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_CHUNK = chunk_flag(FLAGS)
_FORCE = force_flag(FLAGS)


def main() -> int:
    """Runs the command."""
    for value, registry in ((_DETECTORS.value, DETECTORS), (_ARMS.value, MITIGATIONS)):
        if value == ["help"]:
            print(registry.help())
            return 0
    require(model=_MODEL.value)
    _check()
    place = _WORKDIR.value
    if not place and (Path(_MODEL.value) / RUN_FILE).is_file():
        place = _MODEL.value
    # Without a place the model has to be read to say what is wrong.
    with _held(place) if place else nullcontext():
        return _audit(place)


def _held(place: str) -> Any:
    reads = (_PROMPTS.value, _NEGATIVES.value, _DATA.value, _HELD_OUT.value, _CLIP.value)
    return hold(place, FILES, reads=reads, force=_FORCE.value, flag="workdir")


def _audit(place: str) -> int:
    model = _MODEL.load()
    seed = model.config["seed"] if _SEED.value is None else _SEED.value
    model = _NULL.apply(model, seed, _MODEL.dtype.value)
    data = None if model.run is not None else _captioned(model)
    if model.run is not None:
        _refuse_text_flags()
    if model.run is None and not _WORKDIR.value and not model.record:
        raise ValueError("--workdir must be given: the model's folder is left as it is.")
    paths, results = run_audit_command(
        model,
        Path(place or _MODEL.value),
        _SAMPLING.options(model),
        _asked(),
        data,
        restart=_RESTART.value,
        budget=_BUDGET.value,
        force=_FORCE.value,
    )
    print(summary_table(results))
    print(f"report: {paths.html}")
    return 0


def run_audit_command(
    model: Model,
    folder: Path,
    sampling: SamplingOptions,
    asked: Asked = NOTHING_ASKED,
    data: Captioned | None = None,
    *,
    restart: bool = False,
    discard_other: bool = False,
    budget: str = "",
    force: bool = False,
) -> tuple[ReportPaths, dict[str, Any]]:
    """Audits a model and writes its report; a stopped audit goes on where it was.

    Args:
        model: The opened model.
        folder: For ``report.html``, ``report.json`` and the prompts.
        sampling: How images are made.
        asked: What the command line changes.
        data: Real images with captions, for models of text.
        restart: Discard what a stopped audit has kept.
        discard_other: Discard it only where it was asked for something else, instead of refusing.
        budget: See the flag; what was done is kept where there is more to ask for.
        force: Replace files there that memjax did not write.
    """
    writes = [*FILES, prompts_folder(model)]
    with hold(folder, writes, force=force, flag="workdir"):
        return _run_audit(model, folder, sampling, asked, data, restart, discard_other, budget)


def _run_audit(
    model: Model,
    folder: Path,
    sampling: SamplingOptions,
    asked: Asked,
    data: Captioned | None,
    restart: bool,
    discard_other: bool,
    budget: str,
) -> tuple[ReportPaths, dict[str, Any]]:
    clock, began = Clock(), time.monotonic()
    seconds = parse_seconds(budget) if budget else 0.0
    time_there_is = Budget(budget, seconds, began + seconds) if budget else None

    def ready(store: Store) -> None:
        store.check(restart or (discard_other and not store.same_job()), "another --workdir")
        store.start()

    def survey(
        model: Model, prompts: Candidates, options: AuditOptions, sampling: SamplingOptions
    ) -> Survey:
        store = Store(folder / _SCORES, survey_job(model, prompts, options, sampling))
        with store.held():
            ready(store)
            bar = partial(progress_bar, "scoring")
            return take_survey(model, prompts, options, sampling, store, progress=bar, say=print)

    subject: Subject
    if data is None:
        subject = label_subject(model, sampling, asked, clock, survey)
    else:
        subject = caption_subject(model, data, sampling, asked, clock, survey)
    store = audit_store(subject, folder / "audit.parts")
    with store.held():
        ready(store)
        audited = audit(
            subject,
            clock,
            store=store,
            progress=None if data is None else progress_bar,
            budget=time_there_is,
        )
        paths = write_audit(folder, audited, clock, began)
        if audited.results.get("budget", {}).get("complete", True):
            store.remove()
            Store(folder / _SCORES, {}).remove()
    return paths, audited.results


def _asked() -> Asked:
    return Asked(
        _FEATURES.value,
        clip_score(_CLIP.value),
        _SIDE.value,
        _GENERATIONS.value,
        _CHUNK.value,
        _SEED.value,
        _DETECTORS.value,
        _ARMS.value,
    )


def _check() -> None:
    """Says mistakes of the flags before the model is read."""
    if _BUDGET.value:
        parse_seconds(_BUDGET.value)
    for entry in _FEATURES.value:
        published_rung(entry)  # a wrong name or file is said before anything runs
    AuditOptions(
        detectors=tuple(_DETECTORS.value or ()),
        arms=tuple(AuditOptions.arms if _ARMS.value is None else _ARMS.value),
    )
    if _DATA.value and (_PROMPTS.value or _NEGATIVES.value):
        raise ValueError("--data and --prompts are both given: give one of them.")
    if bool(_PROMPTS.value) != bool(_NEGATIVES.value):
        missing = "--negatives" if _PROMPTS.value else "--prompts"
        raise ValueError(f"{missing} must be given too: an audit compares the two.")


def _refuse_text_flags() -> None:
    given = {
        "data": _DATA.value,
        "prompts": _PROMPTS.value,
        "held_out": _HELD_OUT.value,
        "clip": _CLIP.value,
        "compare_at": _SIDE.value if FLAGS["compare_at"].present else "",
    }
    for name, value in given.items():
        if value:
            raise ValueError(
                f"--{name}={value} is for models that read text, and {_MODEL.value} was trained on "
                "labels: leave it out, its configuration says what it is audited with."
            )


def _captioned(model: Model) -> Captioned:
    """Returns the real images with captions that the flags name."""
    if _DATA.value:
        return from_folder(_DATA.value, _HELD_OUT.value)
    if _PROMPTS.value:
        return from_prompts(_PROMPTS.value, _NEGATIVES.value)
    return from_fine_tuning(model)


def summary_table(results: Mapping[str, Any]) -> str:
    """Returns what was measured as a short table, and what was left out."""
    rows = _sample_rows(results) if "samples" in results else _prompt_rows(results)
    known = [row for row in rows if row[1].get(row[2]) is not None]
    lines = [f"  {name:<32}{_figure(section, key)}" for name, section, key in known]
    notes = "left_out" in results or "budget" in results
    return "\n".join([*lines, *(["  " + results["notes"]] if notes else [])])


_Rows = list[tuple[str, Mapping[str, Any], str]]


def _prompt_rows(results: Mapping[str, Any]) -> _Rows:
    similarity, repair = results["similarity"], results["mitigation"]
    return [
        *_signal_rows(results),
        *_came_back_rows(results),
        ("copies: memorized prompts", similarity, "copy_rate_memorized"),
        ("copies: other prompts", similarity, "copy_rate_other"),
        ("copies: real held-out images", similarity, "copy_rate_background"),
        ("training images that came back", results["returned"], "num"),
        ("copies after mitigation", repair, "copy_rate_after"),
        *_asked_rows(results),
    ]


def _came_back_rows(results: Mapping[str, Any]) -> _Rows:
    """How many of which prompts brought a training image back."""
    groups = results["came_back"]["groups"]
    titles = {"loudest": "loudest", "once": "random", "held_out": "held-out"}
    rows = [
        (f"came back: {groups[name]['num']} {title} prompts", groups[name], "came_back")
        for name, title in titles.items()
        if name in groups
    ]
    survey = results.get("survey")
    if not survey:
        return rows
    return [(f"flagged of {survey['num_scored']} training prompts", survey, "num_flagged"), *rows]


def _signal_rows(results: Mapping[str, Any]) -> _Rows:
    """How well the magnitude tells memorized prompts, or the detectors measured without it."""
    detection = results["detection"]
    if "default" not in detection:
        rows = results.get("detectors", {}).get("rows", [])
        return [(f"AUC ({row['name']})", row, "auc") for row in rows]
    chosen = detection[detection["default"]]
    return [
        (f"AUC ({detection['default']})", chosen, "auc"),
        ("  against trained once", chosen["against_once"], "auc"),
        ("  against held out", chosen["against_held_out"], "auc"),
    ]


def _sample_rows(results: Mapping[str, Any]) -> _Rows:
    """Copies among images without prompts."""
    similarity, samples = results["similarity"], results["samples"]
    return [
        ("images", samples, "num"),
        ("copies", similarity, "copy_rate_sample"),
        ("copies: real held-out images", similarity, "copy_rate_background"),
        ("training images that came back", samples, "num_returned"),
        ("  of them repeated in training", samples, "num_returned_repeated"),
    ]


def _asked_rows(results: Mapping[str, Any]) -> _Rows:
    """What images show of what was asked: by the classifier, or by CLIP for models of text."""
    text = "foreign" in results.get("data", {})
    name, key = ("CLIP score", "clip") if text else ("findings as asked", "label_agreement")
    mitigation = results["mitigation"]
    return [(f"{name}, {when}", mitigation, f"{key}_{when}") for when in ("before", "after")]


def _figure(section: Mapping[str, Any], key: str) -> str:
    value, low, high = (section[key], *(section.get(f"{key}_{end}") for end in ("low", "high")))
    if isinstance(value, int):
        return f"{value:6d}"
    return f"{value:6.2f}" + ("" if low is None else f"   [{low:.2f}, {high:.2f}]")

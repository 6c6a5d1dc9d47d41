"""From the flags of ``memjax audit`` to its files."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from memjax.cli.audit import (
    _ARMS,
    _BUDGET,
    _CHUNK,
    _CLIP,
    _DATA,
    _DETECTORS,
    _FEATURES,
    _FORCE,
    _GENERATIONS,
    _HELD_OUT,
    _MODEL,
    _NEGATIVES,
    _NULL,
    _PROMPTS,
    _RESTART,
    _SAMPLING,
    _SEED,
    _SIDE,
    _WORKDIR,
    FLAGS,
)
from memjax.cli.flags import refuse_given
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


def run() -> int:
    """Runs the command."""
    for value, registry in ((_DETECTORS.value, DETECTORS), (_ARMS.value, MITIGATIONS)):
        if value == ["help"]:
            print(registry.help())
            return 0
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
    if model.bundle.null_cond is None:
        why = "the model has no null condition, so nothing is guided: give --null too."
        refuse_given(FLAGS, ("guidance_scale",), why)
    if model.run is None and not _WORKDIR.value and not model.record:
        raise ValueError("--workdir must be given: the model's folder is left as it is.")
    paths, results = run_audit_command(
        model,
        Path(place or _MODEL.value),
        _SAMPLING.options(model).repeatable(),
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

"""From the flags of ``memjax extract`` to its files."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memjax.cli.extract import (
    _CHUNK,
    _FORCE,
    _GENERATIONS,
    _HELD_OUT,
    _LEAST,
    _LOUDEST,
    _MODEL,
    _NULL,
    _OUT,
    _PROMPTS,
    _RESTART,
    _SAMPLING,
    _SEED,
    _THRESHOLD,
    _TRAINING,
    FLAGS,
)
from memjax.cli.flags import refuse_given
from memjax.report.pages.extract import FILES, PAGE, WALL, extract_files, printed
from memjax.runs.model import Model
from memjax.runs.null import is_unconditional
from memjax.runs.options import AuditOptions
from memjax.runs.outputs import held, model_provenance, progress_bar
from memjax.runs.prompts import FOLDER, check_rows, read_prompts, warn_truncated
from memjax.runtime.files import write_all
from memjax.runtime.hosts import is_first
from memjax.sampling import SamplingOptions
from memjax.studies.copies.folders import check_apart, image_folder
from memjax.studies.extraction import ExtractOptions, Real, extract, read_real
from memjax.studies.extraction.real import own_data, training_prompts
from memjax.studies.store import Store, content_digest, text_digest
from memjax.studies.survey import survey_job, take_survey

_FLAGGED = Path(FOLDER) / "flagged.jsonl"
_PARTS, _SCORES = "extract.parts", "scores.parts"
_SURVEYED = 2000  # training prompts of which the loudest are taken

Rows = list[dict[str, Any]]


def run() -> int:
    """Runs the command."""
    options = ExtractOptions(
        _GENERATIONS.value, _THRESHOLD.value, _LEAST.value, _SEED.value, _CHUNK.value
    )
    given = {"training": _TRAINING.value, "held_out": _HELD_OUT.value}
    folders = [(flag, root) for flag, root in given.items() if root]
    check_apart(folders)
    for flag, root in folders:
        check_apart([(flag, root), ("out", _OUT.value)])
        image_folder(flag, root)
    rows = read_prompts(_PROMPTS.value) if _PROMPTS.value else None
    reads = (_MODEL.value, _PROMPTS.value)
    with held(_OUT.value, FILES, reads=reads, force=_FORCE.value):
        return _extract(options, rows)


def _extract(options: ExtractOptions, rows: Rows | None) -> int:
    model = _NULL.apply(_MODEL.load(), options.seed, _MODEL.dtype.value)
    if model.bundle.null_cond is None:
        why = "the model has no null condition, so nothing is guided: give --null too."
        refuse_given(FLAGS, ("guidance_scale",), why)
    sampling = _SAMPLING.options(model).repeatable()
    source = _source(model, rows)
    if rows is not None:
        check_rows(model, rows)
    if source == "loudest" and model.bundle.null_cond is None:
        raise ValueError(
            f"{model.name} has no null condition, so its prompts have no magnitude: give "
            "--prompts=FILE, or --null=random_labels."
        )
    if source == "loudest" and not own_data(model):
        raise ValueError(f"{model.name} does not say what it was trained on: give --prompts=FILE.")
    real = None
    if _TRAINING.value or own_data(model):
        print("reading training images")
        real = read_real(model, _TRAINING.value, _HELD_OUT.value)
    if rows is None:
        rows = _chosen(source, model, real, sampling, options)
    warn_truncated(check_rows(model, rows))
    return _written(model, rows, sampling, options, real, source)


def _source(model: Model, rows: Rows | None) -> str:
    """Says where the prompts come from."""
    if is_unconditional(model):
        why = f"{_MODEL.value} was trained without conditions: it has no prompts."
        refuse_given(FLAGS, ("prompts", "loudest"), why)
        return "none"
    if rows is not None:
        return Path(_PROMPTS.value).name
    if _LOUDEST.value is None and (model.path / _FLAGGED).is_file():
        return "flagged"
    if _LOUDEST.value is None:
        raise ValueError(
            f"{model.name} holds no {_FLAGGED} of an audit: give --prompts=FILE, or --loudest=16 "
            "for the loudest of its training prompts."
        )
    return "loudest"


def _chosen(
    source: str,
    model: Model,
    real: Real | None,
    sampling: SamplingOptions,
    options: ExtractOptions,
) -> Rows:
    if source == "none":
        return [{"id": "no prompt", "labels": {}}]
    if source == "flagged":
        file = model.path / _FLAGGED
        print(f"prompts: those that an audit has flagged ({file})")
        return read_prompts(str(file))
    if _TRAINING.value or real is None:  # a folder has no prompts, the run's data have
        real = read_real(model)
    known = training_prompts(model, real, _SURVEYED, options.seed)
    wanted = AuditOptions(seed=options.seed)
    store = Store(Path(_OUT.value) / _SCORES, survey_job(model, known, wanted, sampling))
    with store.held() if is_first() else nullcontext():
        if is_first():
            store.check(_RESTART.value)
        bar = partial(progress_bar, "scoring")
        survey = take_survey(model, known, wanted, sampling, store, progress=bar, say=print)
    if known.total > known.trained:
        print(f"{known.trained} of {known.total} training prompts, drawn by the seed, were scored")
    order = np.argsort(-survey.training, kind="stable")[: _LOUDEST.value]
    scores = [float(survey.training[i]) for i in order]
    print(f"prompts: the loudest {len(order)} of {known.trained} training prompts")
    return [{**known.rows[i], "magnitude": s} for i, s in zip(order, scores, strict=True)]


def _written(
    model: Model,
    rows: Rows,
    sampling: SamplingOptions,
    options: ExtractOptions,
    real: Real | None,
    source: str,
) -> int:
    folder = Path(_OUT.value)
    store = Store(folder / _PARTS, _job(model, rows, sampling, options))
    with store.held() if is_first() else nullcontext():
        if is_first():
            store.check(_RESTART.value)
            store.start()
        found = extract(
            model, rows, sampling, options, real, store=store, progress=progress_bar, say=print
        )
        if not is_first():
            return 0
        made = model_provenance(
            model,
            options.seed,
            sampling=vars(sampling),
            options=vars(options),
            prompts=source,
            training=_TRAINING.value and Path(_TRAINING.value).name,
        )
        files = extract_files(found, real, title=f"What {model.name} gives back", made_by=made)
        if WALL not in files:  # of an earlier start
            (folder / WALL).unlink(missing_ok=True)
        write_all(folder, files)
        store.remove()
        Store(folder / _SCORES, {}).remove()
    for sentence in printed(found.summary):
        print(sentence)
    print(f"written: {folder / PAGE} (open it in a browser)")
    return 0


def _job(
    model: Model, rows: Rows, sampling: SamplingOptions, options: ExtractOptions
) -> dict[str, Any]:
    """Returns everything that decides the images; what is made of them does not."""
    asked = [[row.get("labels"), row.get("caption")] for row in rows]
    return {
        **vars(sampling),
        "seed": options.seed,
        "dtype": model.dtype,
        "model": content_digest((model.bundle.params, model.bundle.schedule)),
        "null condition": content_digest(model.bundle.null_cond),
        "prompts": text_digest(asked),
    }

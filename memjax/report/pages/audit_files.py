"""The files of an audit: report, figures, tables and prompts."""

import time
from pathlib import Path

from memjax.report.files import FOLDER
from memjax.report.pages.audit import audit_figures
from memjax.report.pages.audit_survey import wall_caption
from memjax.report.pages.audit_without_null import own_captions
from memjax.report.pages.base import ReportPaths, write_report
from memjax.runs.model import Model
from memjax.runs.prompts import write_rows
from memjax.runtime.files import write_bytes
from memjax.studies.audit import Audited, Clock, made
from memjax.studies.prompts.draw import Prompts
from memjax.studies.survey import Returned, Scored, returned_images, scored_prompts
from memjax.studies.table import audit_rows, csv_bytes

FILES = ("report.html", "report.json", FOLDER, "table.csv", "returned.csv", "training_scores.csv")


def prompts_folder(model: Model) -> str:
    """Returns the name of the folder of an audit's prompts; a fine-tuned run has one itself."""
    return "prompts" if model.pipeline is None else "audit_prompts"


def write_audit(workdir: Path, audited: Audited, clock: Clock, began: float) -> ReportPaths:
    """Writes the report of an audit, and its prompts for use with the other commands.

    Args:
        workdir: Folder for ``report.html``, ``report.json``, ``figures/``, ``table.csv`` with every
            value behind them, ``returned.csv`` with the training images that came back,
            ``training_scores.csv`` with the score of every training prompt, and the prompts, those
            that were flagged in ``flagged.jsonl``.
        audited: What was measured.
        clock: Told what is being done.
        began: When the audit began, ``time.monotonic()``.
    """
    subject, results = audited.subject, audited.results
    clock("writing the report")
    figures = audit_figures(
        audited.audit,
        subject.prompts,
        subject.references.gallery,
        subject.model.bundle,
        subject.options,
        subject.caption,
        results,
    )
    clock.stop()
    results |= made(subject, clock, time.monotonic() - began)
    captions = own_captions(results, figures.images) | wall_caption(results, figures.images)
    paths = write_report(workdir, results, figures.images, tables=figures.tables, captions=captions)
    write_bytes(workdir / "table.csv", csv_bytes(audit_rows(subject, audited.audit)))
    back = returned_images(
        audited.audit, subject.prompts, subject.references.gallery, subject.names
    )
    write_bytes(workdir / "returned.csv", csv_bytes(back, Returned._fields))
    folder = workdir / prompts_folder(subject.model)
    if "samples" not in results:
        write_prompt_files(folder, subject.prompts)
    if subject.survey is not None:
        scored = scored_prompts(subject.survey, subject.names)
        table = csv_bytes([score for score, _ in scored], Scored._fields)
        write_bytes(workdir / "training_scores.csv", table)
        flagged = [{**row, "score": score.score} for score, row in scored if score.flagged]
        write_rows(folder / "flagged.jsonl", flagged)
    return paths


def write_prompt_files(folder: Path, prompts: Prompts) -> None:
    """Writes the audit's prompts, one JSONL a family, for use with the other commands."""
    folder.mkdir(parents=True, exist_ok=True)
    for family in dict.fromkeys(prompts.family.tolist()):
        rows = [r for r, f in zip(prompts.rows, prompts.family, strict=True) if f == family]
        write_rows(folder / f"{family}.jsonl", rows)

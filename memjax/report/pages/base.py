"""One self-contained HTML page and one JSON file that say what an audit found."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from memjax.core.registry import title_of
from memjax.report.files import FOLDER, Table, check_png, file_names, publish
from memjax.report.pages.audit_survey import leads
from memjax.report.pages.audit_text import verdict
from memjax.report.sections import SECTIONS, placed
from memjax.report.tables import (
    classifier_rows,
    distribution_rows,
    has_any,
    similarity_rows,
    versus,
)
from memjax.report.wording import (
    decimal,
    family_title,
    interval,
    p_value_text,
    percent,
    visible,
    wording,
)
from memjax.runtime.json import dumps, to_plain

__all__ = ["REQUIRED", "SECTIONS", "ReportPaths", "missing_fields", "render_html", "write_report"]

DIGITS = 6
_DETECTION = (
    "auc",
    "auc_low",
    "auc_high",
    "tpr_at_1pct_fpr",
    "num_memorized",
    "num_other",
    "forward_evals",
)
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "detection": ("default",),
    "detection.first_step": _DETECTION,
    "detection.first_k": _DETECTION,
    "detection.all_steps": _DETECTION,
    "similarity": ("copy_rate_memorized", "copy_rate_other", "copy_rate_background"),
    "mitigation": (
        "copy_rate_before",
        "copy_rate_after",
        "label_agreement_before",
        "label_agreement_after",
    ),
    "training": ("steps", "images_per_second", "seconds"),
    "": ("versions", "config", "seed"),
}
# Sections that a model without a null condition has in part, or not at all.
_OF_PROMPTS = ("detection", "similarity", "mitigation")


class ReportPaths(NamedTuple):
    """The files :func:`write_report` wrote."""

    html: Path
    json: Path


def write_report(
    out_dir: str | os.PathLike[str],
    results: Mapping[str, Any],
    figures: Mapping[str, bytes],
    *,
    tables: Mapping[str, Table] | None = None,
    title: str = "Memorization report",
    captions: Mapping[str, str] | None = None,
) -> ReportPaths:
    """Writes ``report.html``, ``report.json`` and ``figures/``; all appear together or none.

    Args:
        out_dir: Folder, made if missing.
        results: Nested figures; sections that are missing are left out. See :data:`REQUIRED` for
            what a full audit holds, and the template for ``validation`` and ``distribution``.
        figures: Section (a key of :data:`SECTIONS`, or ``"tokens/any name"`` for several in one
            section) → PNG bytes. Other keys stand at the end under their own name.
        tables: Figure key → columns (name with unit → values), written as CSV beside the figure
            and linked under it; a key without a figure is linked at the end.
        title: Heading of the page.
        captions: Figure key → text that replaces the section's usual caption.

    Raises:
        ValueError: If a figure is not a PNG, or a table has columns of different lengths; nothing
            is written then.
    """
    plain = to_plain(results, digits=DIGITS)
    text = dumps(plain, indent=2, sort_keys=True) + "\n"
    for name, png in figures.items():
        check_png(name, png)
    page = render_html(plain, figures, tables=tables, title=title, captions=captions)
    pages = {"report.html": page, "report.json": text}
    paths = publish(out_dir, pages, figures, tables or {})
    return ReportPaths(paths["report.html"], paths["report.json"])


def render_html(
    results: Mapping[str, Any],
    figures: Mapping[str, bytes],
    *,
    tables: Mapping[str, Table] | None = None,
    title: str = "Memorization report",
    captions: Mapping[str, str] | None = None,
) -> str:
    """Returns the page; every text is escaped and every image is inside it."""
    plain, words, tables = to_plain(results), wording(results), tables or {}
    names = file_names(dict.fromkeys([*figures, *tables]))
    loose = [f"{FOLDER}/{names[key]}.csv" for key in tables if key not in figures]
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            r=plain,
            title=title,
            verdict=verdict(plain),
            words=words,
            images=placed(figures, captions or {}, tables, words),
            config_text=dumps(plain.get("config", {}), indent=2, sort_keys=True),
            missing=missing_fields(plain),
            loose=loose,
        )
    )


def page_environment() -> jinja2.Environment:
    """Returns the templates' environment: escaping on, with the filters that write numbers."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memjax.report"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "figure": figure_text,
        "fact": _fact_text,
        "mitigation": title_of,
        "p_value": lambda value: p_value_text(value).removeprefix("Wilcoxon "),
    }
    environment.globals |= {
        "interval": interval,
        "similarity_rows": similarity_rows,
        "classifier_rows": classifier_rows,
        "distribution_rows": distribution_rows,
        "family_title": family_title,
        "has_any": has_any,
        "versus": versus,
    }
    environment.tests["scalar"] = lambda v: not isinstance(v, (list, dict))
    return environment


def missing_fields(results: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names of :data:`REQUIRED` fields that ``results`` does not hold.

    Fields that a model without a null condition cannot have are not missed: ``left_out`` says so;
    nor are those of memorized prompts where too few are known.
    """
    missing = []
    for section, keys in REQUIRED.items():
        if (leads(results) or "left_out" in results) and section.startswith(_OF_PROMPTS):
            continue
        found: Any = results
        for part in section.split(".") if section else ():
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
        prefix = f"{section}." if section else ""
        missing += [prefix + key for key in keys if found.get(key) is None]
    return missing


def figure_text(value: Any, digits: int = 2) -> str:
    """Returns a number for a table cell; "–" where there is none."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else decimal(value, digits)


def _fact_text(value: Any) -> str:
    """Returns a number of any size with four significant digits; text as it is."""
    if isinstance(value, float):
        text = f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
        return text.replace("-", "−", 1) if value < 0 else text
    return figure_text(value)

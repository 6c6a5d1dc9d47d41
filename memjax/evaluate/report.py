"""One self-contained HTML page and one JSON file that say what an audit found."""

import base64
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from memjax.evaluate.narrative import interval, percent, verdict
from memjax.evaluate.plain import to_plain
from memjax.evaluate.tables import classifier_rows, similarity_rows, versus

DIGITS = 6
_PIXELS_PER_CSS_PIXEL = 2  # the figures are drawn at 200 dots an inch
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


class Section(NamedTuple):
    """Where a figure stands in the report, and what is said under it."""

    title: str
    caption: str


# Order here = order in the report. A key "tokens/anything" belongs to section "tokens".
SECTIONS: Mapping[str, Section] = {
    "pairs": Section(
        "What it copied",
        "Top: a picture the model made. Middle: the training picture closest to it. Bottom: where "
        "the two differ; black means no difference. An orange frame marks a copy. The number is "
        "the distance to the closest training picture, relative to the neighbouring ones: at 1 or "
        "below, the picture counts as a copy.",
    ),
    "pairs_other": Section(
        "What other prompts give",
        "The same comparison for prompts whose picture was not repeated in training. The closest "
        "training picture should look like a different patient.",
    ),
    "tokens": Section(
        "Which words bring the copy back",
        "How much each part of the prompt pulls the picture towards the copy. Long bars at details "
        "that identify one patient, such as a burned-in marker, show what to remove before "
        "training.",
    ),
    "before_after": Section(
        "Before and after the repair",
        "The same starting noise with the prompt as it was and as repaired. A good repair no "
        "longer gives the training picture but still shows the findings asked for.",
    ),
    "magnitude": Section(
        "The warning signal while a picture is made",
        "How strongly the prompt pulls at each step, from pure noise (left) to the finished "
        "picture (right). Lines are medians, bands hold the middle 80 % of prompts.",
    ),
    "roc": Section(
        "How reliable the warning is",
        "The further a curve reaches into the top left corner, the better the signal separates "
        "memorised prompts from others.",
    ),
    "similarity": Section(
        "What counts as a copy",
        "Distance of each picture to its closest training picture. Left of the dotted line it "
        "counts as a copy. Films that were never trained on show how often the rule is wrong by "
        "chance. Bar height is the share of the group's pictures.",
    ),
}


class ReportPaths(NamedTuple):
    """The files :func:`write_report` wrote."""

    html: Path
    json: Path


def write_report(
    out_dir: str | os.PathLike[str],
    results: Mapping[str, Any],
    figures: Mapping[str, bytes],
    *,
    title: str = "Memorisation report",
    captions: Mapping[str, str] | None = None,
) -> ReportPaths:
    """Writes ``report.html`` and ``report.json``; each appears whole or not at all.

    Args:
        out_dir: Folder, made if missing.
        results: Nested figures; sections that are missing are said to be not measured. See
            :data:`REQUIRED` for what a full audit holds.
        figures: Section (a key of :data:`SECTIONS`, or ``"tokens/any name"`` for several in one
            section) → PNG bytes. Other keys stand at the end under their own name.
        title: Heading of the page.
        captions: Figure key → text that replaces the section's usual caption.

    Raises:
        ValueError: If a figure is not a PNG; nothing is written then.
    """
    plain = to_plain(results, digits=DIGITS)
    for name, png in figures.items():
        if bytes(png[:8]) != b"\x89PNG\r\n\x1a\n":
            raise ValueError(
                f"figure {name!r} is not a PNG; pass the bytes memjax.evaluate.figures returns."
            )
    text = json.dumps(plain, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    page = render_html(plain, figures, title=title, captions=captions)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(folder / "report.html", folder / "report.json")
    write_atomically(paths.json, text)
    write_atomically(paths.html, page)
    return paths


def render_html(
    results: Mapping[str, Any],
    figures: Mapping[str, bytes],
    *,
    title: str = "Memorisation report",
    captions: Mapping[str, str] | None = None,
) -> str:
    """Returns the page; every text is escaped and every picture is inside it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memjax.evaluate"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "figure": _figure_text, "fact": _fact_text}
    environment.globals |= {
        "interval": interval,
        "similarity_rows": similarity_rows,
        "classifier_rows": classifier_rows,
        "versus": versus,
    }
    environment.tests["scalar"] = lambda v: not isinstance(v, (list, dict))
    return environment.get_template("report.html.j2").render(
        r=results,
        title=title,
        verdict=verdict(results),
        pictures=_placed(figures, captions or {}),
        config_text=json.dumps(results.get("config", {}), indent=2, sort_keys=True),
        missing=missing_fields(results),
    )


def missing_fields(results: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names of :data:`REQUIRED` fields that ``results`` does not hold."""
    missing = []
    for section, keys in REQUIRED.items():
        found: Any = results
        for part in section.split(".") if section else ():
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
        prefix = f"{section}." if section else ""
        missing += [prefix + key for key in keys if found.get(key) is None]
    return missing


def write_atomically(path: Path, text: str) -> None:
    """Writes text under a temporary name in the same folder, then renames it."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as out:
        temporary = Path(out.name)
        try:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class _Picture(NamedTuple):
    title: str
    subtitle: str
    caption: str
    source: str
    width: int


def _placed(figures: Mapping[str, bytes], captions: Mapping[str, str]) -> dict[str, list[_Picture]]:
    """Section → its pictures as data URIs, in the report's order; unknown keys under "more"."""
    placed: dict[str, list[_Picture]] = {name: [] for name in (*SECTIONS, "more")}
    for key, png in figures.items():
        name, _, rest = key.partition("/")
        known = SECTIONS.get(name, Section(key.replace("_", " ").capitalize(), ""))
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        caption = captions.get(key, known.caption)
        home = placed[name if name in SECTIONS else "more"]
        subtitle = rest if name in SECTIONS else ""
        width = int.from_bytes(png[16:20], "big") // _PIXELS_PER_CSS_PIXEL
        home.append(_Picture(known.title, subtitle, caption, source, width))
    return placed


def _figure_text(value: Any, digits: int = 2) -> str:
    """Returns a number for a table cell; "–" where there is none."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _fact_text(value: Any) -> str:
    """Returns a number of any size with four significant digits; text as it is."""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return _figure_text(value)

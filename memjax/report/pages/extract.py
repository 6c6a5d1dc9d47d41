"""The page, the table and the wall that show which images a model gives back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax.evaluate.similarity.resolution import as_bytes, as_unit, reduced
from memjax.report.charts.image_grid import Layout, Row, draw_wall, pairs_wall
from memjax.report.files import csv_text
from memjax.report.pages.base import page_environment
from memjax.report.pages.dataset import data_uri
from memjax.report.wording import interval, number, percent
from memjax.runtime.json import dumps, text_bytes, to_plain
from memjax.studies.extraction import Extraction, Real
from memjax.studies.extraction.study import COPY, NOT_COMPARED, Found
from memjax.studies.subjects.labels import readable

PAGE, WALL, TABLE, SUMMARY = FILES = ("index.html", "wall.png", "extracted.csv", "extract.json")
SHOWN = 24
_FEW = 100  # training images; fewer are no neighborhood of 50 to compare a distance with


def extract_files(
    found: Extraction, real: Real | None, *, title: str, made_by: Mapping[str, Any]
) -> dict[str, bytes]:
    """Returns everything ``memjax extract`` writes: file name → bytes; no wall without cliques.

    Args:
        found: Of :func:`memjax.studies.extraction.extract`.
        real: What it was compared with, or None.
        title: Heading of the page.
        made_by: Versions, seed, settings.
    """
    summary = to_plain({**found.summary, "prompts": prompt_rows(found)}, digits=6)
    whole = {**summary, "made_by": to_plain(made_by)}
    files = {
        TABLE: text_bytes(csv_text(table(found, real), TABLE)),
        SUMMARY: text_bytes(dumps(whole, indent=2, sort_keys=True) + "\n"),
        PAGE: text_bytes(page(found, real, summary, title=title, made_by=to_plain(made_by))),
    }
    return {WALL: wall(found, real), **files} if found.found else files


def said(row: Mapping[str, Any]) -> str:
    """Returns a prompt as one line."""
    return readable(row) if row.get("labels") or row.get("caption") else str(row["id"])


def prompt_rows(found: Extraction) -> list[dict[str, Any]]:
    """Returns one row a prompt: what came back, and how often its images copy."""
    cliques: dict[int, list[Found]] = {}
    for each in found.found:
        cliques.setdefault(each.prompt, []).append(each)
    rows = []
    for number_, row in enumerate(found.rows):
        own = cliques.get(number_, [])
        entry = {
            "id": str(row["id"]),
            "said": said(row),
            "largest_clique": int(found.largest[number_]),
            "cliques": len(own),
            "confirmed": sum(f.verdict == COPY for f in own),
        }
        if found.copied is not None:
            entry["share_copying"] = float(found.copied[number_])
        rows.append(entry)
    return rows


def table(found: Extraction, real: Real | None) -> dict[str, list[Any]]:
    """Returns one row a clique, by name."""
    each = found.found
    columns: dict[str, list[Any]] = {
        "prompt": [str(found.rows[f.prompt]["id"]) for f in each],
        "said": [said(found.rows[f.prompt]) for f in each],
        "generations alike": [len(f.clique.members) for f in each],
        "of": [found.summary["num_generations"] for _ in each],
        "largest possible": [f.clique.exact for f in each],
        "mean tiled distance": [f.clique.spread for f in each],
        "medoid": [f.clique.medoid for f in each],
        "members": [" ".join(map(str, f.clique.members)) for f in each],
        "verdict": [f.verdict for f in each],
    }
    if real is None:
        return columns
    gallery = real.gallery
    return columns | {
        "nearest training image": [real.names[f.nearest] for f in each],
        "patient": [str(gallery.patients[f.nearest]) for f in each],
        "times in training": [int(gallery.copies[f.nearest]) for f in each],
        "calibrated distance": [f.calibrated for f in each],
        "RMS difference": [f.rms for f in each],
        "share of members that copy it": [f.copies for f in each],
        "members with the same pixels": [f.exact for f in each],
    }


def _order(found: Extraction) -> list[Found]:
    """Copies first, the tightest cliques first."""
    return sorted(found.found, key=lambda f: (f.verdict != COPY, f.clique.spread))[:SHOWN]


def _shown(f: Found, real: Real | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The medoid and its nearest training image, of one size."""
    if real is None:
        return f.image, None
    side = min(real.compared.shape[1:3])
    return as_bytes(reduced(f.image[None], side))[0], as_bytes(real.compared[f.nearest])


def wall(found: Extraction, real: Real | None) -> bytes:
    """Returns what came back as one PNG, above its nearest training image where there is one."""
    chosen = _order(found)
    captions = [f"{len(f.clique.members)} alike: {said(found.rows[f.prompt])}" for f in chosen]
    pairs = [_shown(f, real) for f in chosen]
    made = as_unit(np.stack([a for a, _ in pairs]))
    if real is None:
        return draw_wall([Row("Generated\nby the\nmodel", made)], captions, Layout())
    near = as_unit(np.stack([b for _, b in pairs if b is not None]))
    return pairs_wall(
        made,
        near,
        captions=captions,
        ratios=[f.calibrated for f in chosen],
        copies=[f.verdict == COPY for f in chosen],
    )


def page(
    found: Extraction,
    real: Real | None,
    summary: Mapping[str, Any],
    *,
    title: str,
    made_by: Mapping[str, Any],
) -> str:
    """Returns the page; every text is escaped and every image is inside it."""
    shown = []
    for f in _order(found):
        made, near = _shown(f, real)
        shown.append(
            {
                "said": said(found.rows[f.prompt]),
                "generated": data_uri(made),
                "training": None if near is None else data_uri(near),
                "name": "" if real is None else real.names[f.nearest],
                "times": 0 if real is None else int(real.gallery.copies[f.nearest]),
                "members": len(f.clique.members),
                "copy": f.verdict == COPY,
                "verdict": _VERDICTS[f.verdict],
                "calibrated": f.calibrated,
                "spread": f.clique.spread,
            }
        )
    return (
        page_environment()
        .get_template("extract.html.j2")
        .render(
            r=summary,
            title=title,
            shown=shown,
            answer=answer(summary),
            actions=actions(summary),
            compared=real is not None,
            made_by=dumps(made_by, indent=2, sort_keys=True),
            names={"table": TABLE, "summary": SUMMARY, "wall": WALL},
        )
    )


_VERDICTS = {COPY: "COPY", NOT_COMPARED: "not compared"}
_VERDICTS |= {"no training image": "not a training image"}


def answer(summary: Mapping[str, Any]) -> str:
    """Returns the headline."""
    n, found = number(summary["num_prompts"]), summary["num_prompts_found"]
    if not found:
        return f"Nothing keeps coming back from {n} prompts."
    if "num_confirmed" not in summary:
        return f"{number(found)} of {n} prompts keep giving one image back."
    sure = summary["num_prompts_confirmed"]
    if not sure:
        return f"{number(found)} of {n} prompts keep giving one image back; none is of training."
    return f"{number(sure)} of {n} prompts give a training image back."


def actions(summary: Mapping[str, Any]) -> list[str]:
    """Returns what the figures mean and what to do, in sentences."""
    out = []
    if "num_confirmed" not in summary:
        out.append(
            "Nothing was compared with training images: give --training=DIR to learn which of "
            "them came back."
        )
    elif summary["num_cliques"]:
        said_ = f"{percent(summary['precision'])}, {interval(summary, 'precision')}"
        out.append(
            f"{number(summary['num_confirmed'])} of {number(summary['num_cliques'])} images that "
            f"keep coming back are training images ({said_}): {_rest(summary)}."
        )
    if summary.get("num_prompts_missed"):
        out.append(
            f"{number(summary['num_prompts_missed'])} prompts whose images mostly copy a training "
            "image have no clique of it: make more generations, lower --least, or raise "
            "--threshold (see the table of thresholds)."
        )
    if not summary["num_prompts_found"]:
        out.append(
            "That is no proof that nothing is memorized: only these prompts were asked, with "
            f"{number(summary['num_generations'])} generations each."
        )
    if summary.get("training", {}).get("different", _FEW) < _FEW:
        out.append(
            f"There are fewer than {_FEW} different training images: calibrated distances are "
            "rough."
        )
    if summary["num_not_proven"]:
        out.append(
            f"{number(summary['num_not_proven'])} cliques were found greedily: larger ones may be "
            "there."
        )
    return [*out, *_left_out(summary)]


def _rest(summary: Mapping[str, Any]) -> str:
    wrong = summary["num_false"]
    if not wrong:
        return "no false one"
    return f"{number(wrong)} are none, such as a template or an attractor of the model's own"


def _left_out(summary: Mapping[str, Any]) -> list[str]:
    """Files of the folders that could not be read."""
    out = []
    for flag in ("training", "held_out"):
        part = summary.get("training", {}).get(flag)
        for kind, count in (part or {}).get("left_out", {}).items() if part else ():
            if count:
                what = "are damaged" if kind == "corrupt" else "cannot be read as images"
                out.append(f"{number(count)} files of {part['folder']} {what} and were left out.")
    return out


def printed(summary: Mapping[str, Any]) -> list[str]:
    """Returns what the command says."""
    out = [answer(summary), *actions(summary)]
    if summary.get("num_repeated"):
        out.append(
            f"{number(summary['num_repeated_extracted'])} of {number(summary['num_repeated'])} "
            "training images that stand more than once were extracted."
        )
    return out

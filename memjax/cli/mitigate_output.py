"""The files of ``memjax mitigate``: embeddings, rows, walls and the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.core.condition import embeddings_of
from memjax.report.charts.mitigation_grid import Cell, PromptBand, repair_wall
from memjax.report.charts.tradeoff import short_title
from memjax.report.files import FOLDER
from memjax.report.pages.mitigation import PAGE, RepairStudy, write_repair_page
from memjax.report.wording import decimal
from memjax.runs.prompts import write_rows
from memjax.runtime.files import write_bytes
from memjax.studies.mitigation.job import Job, caption_of, image_names
from memjax.studies.mitigation.records import BEFORE, Arm, arm_summaries
from memjax.studies.store import npz_bytes
from memjax.studies.study import Part
from memjax.studies.table import csv_bytes, mitigation_rows

_TENSORS, _ROWS, _TABLE, _WALL = (
    "embeddings.npz",
    "mitigated.jsonl",
    "table.csv",
    "before_after.png",
)
FILES = (_TENSORS, _ROWS, _TABLE, _WALL, PAGE, FOLDER)
_A_WALL = 6  # prompts of one image


Parts = Mapping[str, Sequence[Part]]  # arm → its chunks


def write_outputs(
    out: Path, job: Job, parts: Parts, made: dict[str, Any], *, several: bool
) -> None:
    """Writes everything.

    Args:
        out: The folder.
        job: What was done.
        parts: What came of each arm, chunk by chunk.
        made: Provenance.
        several: Whether several targets were asked for: ``embeddings.npz`` then has an axis of
            repairs even where it holds one, as it has where several mitigations were tried.
    """
    records = [record for arm in parts.values() for part in arm for record in part.records]
    records.sort(key=lambda record: record["number"])  # stable: arms stay in order
    repaired = [[part.arrays["after"] for part in parts[arm.key]] for arm in job.repairs]
    after = np.stack([np.concatenate(chunks) for chunks in repaired])
    arrays: dict[str, np.ndarray] = {
        "ids": np.asarray([row["id"] for row in job.rows]),
        "before": np.asarray(jax.device_get(embeddings_of(job.problem.cond))),
        "after": after[0],
    }
    if several or len(after) > 1:
        arrays |= {"after": after, "arms": np.asarray([arm.key for arm in job.repairs])}
    if several:
        arrays["targets_rms"] = np.asarray([t.rms for t in job.targets], np.float32)
    write_bytes(out / _TENSORS, npz_bytes(**arrays))
    write_rows(out / _ROWS, _rows(job, records, made))
    write_bytes(out / _TABLE, csv_bytes(mitigation_rows(job, parts)))
    walls = _walls(job, parts, records)
    write_bytes(out / _WALL, walls[0])
    _say(job, records)
    page = write_repair_page(out, _study(job, records, made), walls)
    print(f"before and after: {out / _WALL}; page: {page}")


def _rows(job: Job, records: Sequence[dict[str, Any]], made: dict[str, Any]) -> list[dict]:
    """One row a prompt and arm but ``before``, whose figures stand beside those after."""
    before = {r["number"]: r for r in records if r["arm"] == BEFORE}
    arms = {arm.key: arm for arm in job.arms}
    return [
        _row(job, arms[record["arm"]], before[record["number"]], record, made)
        for record in records
        if record["arm"] != BEFORE
    ]


def _row(
    job: Job, arm: Arm, was: dict[str, Any], now: dict[str, Any], made: dict[str, Any]
) -> dict[str, Any]:
    own = ("target", "target_rms", "iterations", "reached", "caption_used")
    out = {
        **job.rows[now["number"]],
        "arm": arm.key,
        **{name: now[name] for name in own if now.get(name) is not None},
        "magnitude_before": was["magnitude"],
        "magnitude_after": now["magnitude"],
        "first_step_before": was["first_step"],
        "first_step_after": now["first_step"],
    }
    if now.get("statistic_rms") is not None:
        out |= {"statistic_rms_before": was["statistic_rms"]}
        out |= {"statistic_rms_after": now["statistic_rms"]}
    if now["likeness"]:
        out["likeness"] = {
            key: {
                "measure": job.measures.names[key],
                "before": was["likeness"][key],
                "after": found,
            }
            for key, found in now["likeness"].items()
        }
    if "clip" in now:
        name = job.measures.names["clip"]
        out["clip"] = {"measure": name, "before": was["clip"], "after": now["clip"]}
    if job.folder is not None:
        number, first = now["number"], job.arms[0]
        out["images_before"] = [f"pictures/{n}" for n in image_names(job, first, number)]
        out["images_after"] = [f"pictures/{n}" for n in image_names(job, arm, number)]
    return {**out, "provenance": made}


def _say(job: Job, records: Sequence[dict[str, Any]]) -> None:
    """Prints one line a prompt for one repair, one line an arm for many prompts."""
    if len(job.rows) * len(job.repairs) <= 40:
        before = {r["number"]: r["magnitude"] for r in records if r["arm"] == BEFORE}
        keys = {arm.key for arm in job.repairs}
        for r in records:
            if r["arm"] in keys:
                what = f" ({r['title']})" if len(keys) > 1 else ""
                change = f"{before[r['number']]:.3f} -> {r['magnitude']:.3f}"
                print(f"{r['id']}: magnitude {change}{what}")
        return
    for s in arm_summaries(job.arms, records):
        if s.magnitude is not None:
            print(f"{s.arm.title}: mean magnitude {s.magnitude.value:.3f} of {s.prompts} prompts")


def _walls(job: Job, parts: Parts, records: Sequence[dict[str, Any]]) -> list[bytes]:
    arrays = {
        f"{arm} {name}": array
        for arm, chunks in parts.items()
        for part in chunks
        for name, array in part.arrays.items()
    }
    known = {(r["number"], r["arm"]): r for r in records}
    shown = [job.arms[i] for i in job.shown[0]]
    bands = []
    for number in range(min(job.walls, len(job.rows))):
        cells = []
        if any(job.references):
            cells.append(_reference_cell(arrays, number, shown[0]))
        for arm in shown:
            pictures = arrays[f"{arm.key} image-{number}"]
            for g, picture in enumerate(pictures):
                title = arm.title if len(pictures) == 1 else f"{arm.title}, noise {g + 1}"
                cells.append(Cell(title, picture, _notes(known[number, arm.key], g)))
        bands.append(PromptBand(_head(job, number), cells))
    return [repair_wall(bands[i : i + _A_WALL]) for i in range(0, len(bands), _A_WALL)]


def _head(job: Job, number: int) -> str:
    row = job.rows[number]
    caption = caption_of(row)
    return str(row["id"]) if caption is None else f"{number + 1}. {caption}"


def _reference_cell(arrays: dict[str, np.ndarray], number: int, first: Arm) -> Cell:
    found = arrays.get(f"{first.key} reference-{number}")
    if found is not None:
        return Cell("training image", found[0])
    blank = np.full_like(arrays[f"{first.key} image-{number}"][0], 235)
    return Cell("no training image", blank)


def _notes(record: dict[str, Any], g: int) -> list[str]:
    notes = [
        f"{short_title(key)} {decimal(found['each'][g])}"
        for key, found in list(record["likeness"].items())[:1]
    ]
    if "clip" in record:
        notes.append(f"CLIP {decimal(record['clip']['each'][g])}")
    return notes


def _study(job: Job, records: Sequence[dict[str, Any]], made: dict[str, Any]) -> RepairStudy:
    notes = []
    if not any(job.references):
        notes.append(
            "Likeness to training images was not measured: no prompt names one (field 'image', "
            "or --references)."
        )
    elif not any(key.startswith("sscd") for key in job.measures.names):
        notes.append(
            "Without SSCD's weights (--sscd) likeness is that of pixels: it misses copies that are "
            "shifted, mirrored or recolored, and figures with SSCD cannot be compared with it."
        )
    if job.measures.clip is None:
        notes.append("Whether images show what was asked was not measured: no --clip weights.")
    asked = {number: caption_of(row) or "" for number, row in enumerate(job.rows)}
    return RepairStudy(
        model=job.model.name,
        generations=job.generations,
        summaries=arm_summaries(job.arms, records),
        records=[{**r, "asked": asked[r["number"]]} for r in records],
        names=job.measures.names,
        method=_words(job),
        notes=notes,
        provenance={k: v for k, v in made.items() if k != "config"} | _flat_sampling(job),
    )


def _words(job: Job) -> dict[str, Any]:
    """What was tried, as the page shows it."""
    words = {} if job.setting is None else job.setting.words()
    chains = {"mitigations": ", ".join(chain.text for chain in job.chains)} if job.chains else {}
    return {**words, **chains}


def _flat_sampling(job: Job) -> dict[str, Any]:
    return {f"sampling_{name}": value for name, value in vars(job.sampling).items()}

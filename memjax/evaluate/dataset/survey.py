"""What a data set holds and what of it is likely to be memorized: one result."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from memjax.data import statistics
from memjax.data.labels.space import FINDINGS, LabelSpace
from memjax.data.problems import Problems, bit_depths
from memjax.data.records import Record
from memjax.data.statistics import HELD_OUT, TRAIN
from memjax.evaluate.dataset.at_risk import copies_of, local_coverage, rows_at_risk
from memjax.evaluate.dataset.negatives import look_negative
from memjax.evaluate.dataset.sentences import stand_out
from memjax.evaluate.similarity.near_duplicates import THRESHOLD, Duplicates, find_duplicates

_PERSON = ("View", "Sex", "Age")


class Looked(NamedTuple):
    """The images that were looked at.

    Attributes:
        images: Decoded images.
        records: Their records.
        split: ``train`` or ``held_out`` of each.
        number: Each one's row in its split.
        of: How many images there are in all.
    """

    images: UInt8[np.ndarray, "n h w c"]
    records: list[Record]
    split: list[str]
    number: list[int]
    of: int


def draw_rows(num: int, most: int, seed: int) -> Int[np.ndarray, " k"]:
    """At most ``most`` of ``num`` rows, drawn by the seed, in order."""
    if num <= most:
        return np.arange(num)
    return np.sort(np.random.default_rng([seed, 31]).permutation(num)[:most])


def survey(
    train: Sequence[Record],
    held_out: Sequence[Record],
    labels: Int[np.ndarray, "n l"],
    space: LabelSpace,
    problems: Problems,
    looked: Looked,
    *,
    root: str = "",
    threshold: float = THRESHOLD,
    most: int = 20,
) -> dict[str, Any]:
    """Counts, duplicates and rows at risk.

    Args:
        train: Training records.
        held_out: Held-out records.
        labels: Token ids of ``train``.
        space: Its label space.
        problems: What was wrong with the data.
        looked: Images to compare, out of both.
        root: Folder that paths are written relative to.
        threshold: Least cross-correlation of near duplicates.
        most: Groups and rows of each kind that are listed.

    Returns:
        JSON-able: ``totals``, ``findings``, ``classes``, ``cooccurrence``, ``distributions``,
        ``conditions``, ``looked_at``, ``duplicates``, ``at_risk``, ``rows``, ``negatives``,
        ``problems``, ``notes``, ``unread``, ``bit_depths``, ``stand_out``.
    """
    splits = {TRAIN: train, HELD_OUT: held_out}
    found = find_duplicates(looked.images, threshold=threshold)
    person = person_word([*train, *held_out])
    result = {
        "person": person,
        "totals": {name: statistics.totals(rows)._asdict() for name, rows in splits.items()},
        "findings": {
            name: statistics.balance(statistics.finding_counts(rows))
            for name, rows in splits.items()
        },
        "classes": {name: statistics.class_counts(rows) for name, rows in splits.items()},
        "cooccurrence": {
            "names": list(FINDINGS),
            "counts": statistics.cooccurrence(train).tolist(),
        },
        "distributions": {name: _distributions(rows) for name, rows in splits.items()},
        "conditions": conditions(train, labels, space, most),
        "looked_at": {"pictures": len(looked.records), "of": looked.of},
        "duplicates": duplicate_groups(looked, found, threshold, root, most),
        "at_risk": [
            {**_row(looked, risk.row, root), **risk._asdict()}
            for risk in rows_at_risk(
                looked.records,
                found,
                trained=np.array([split == TRAIN for split in looked.split]),
                population=train,
                person=person,
                most=most,
            )
        ],
        "rows": _rows(looked, found, root),
        "negatives": [_row(looked, int(row), root) for row in look_negative(looked.images)],
        "problems": {"counts": problems.counts, "examples": problems.examples},
        "notes": problems.notes,
        "unread": {"counts": problems.unread, "examples": problems.unread_examples},
        "bit_depths": bit_depths(problems.bits),
    }
    return result | {"stand_out": stand_out(result, train, held_out)}


def person_word(records: Sequence[Record]) -> str:
    """What ``Record.patient`` names: a patient, or, without chest findings, a source."""
    return "patient" if any(any(record.findings) for record in records) else "source"


def _distributions(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    return {
        "age": statistics.age_counts(records),
        "sex": statistics.sex_counts(records),
        "view": statistics.view_counts(records),
    }


def conditions(
    records: Sequence[Record], labels: Int[np.ndarray, "n l"], space: LabelSpace, most: int
) -> dict[str, Any]:
    """How many conditions there are and how much of the condition makes one patient's own."""
    patients = [record.patient for record in records]
    counts = statistics.patients_per_condition(records)
    names = [slot.name for slot in space.slots]
    person = [i for i, name in enumerate(names) if name in _PERSON]
    markers = [i for i, name in enumerate(names) if name.startswith("Marker ")]
    shown = [i for i in range(len(names)) if i not in {*person, *markers}]
    levels: list[dict[str, Any]] = []
    columns: list[int] = []
    for words, more in (("findings or classes", shown), ("view, sex and age", person),
                        ("markers", markers)):  # fmt: skip
        if more:
            columns = columns + more
            own = statistics.shared_by(labels[:, sorted(columns)], patients) == 1
            levels.append({"added": words, "share_of_one_patient": float(own.mean())})
    return {
        "distinct": len(counts),
        "of_one_patient": sum(count == 1 for count in counts.values()),
        "rarest": [{"condition": c, "patients": n} for c, n in list(counts.items())[:most]],
        "levels": levels,
    }


def duplicate_groups(
    looked: Looked, found: Duplicates, threshold: float, root: str, most: int
) -> dict[str, Any]:
    """The groups of the same image, largest first, with who shares them."""
    sizes = np.bincount(found.group)
    order = [int(g) for g in np.argsort(-sizes, kind="stable") if sizes[g] > 1]
    groups = [_group(looked, found, group, root) for group in order]
    exact = np.bincount(found.exact)
    near = [group for group in groups if group["contents"] > 1]
    far = found.nearest[np.isfinite(found.nearest)]
    return {
        "threshold": threshold,
        "exact_groups": int((exact > 1).sum()),
        "exact_rows": int(exact[exact > 1].sum()),
        "most_copies": int(exact.max()),
        "near_groups": len(near),
        "near_of_one_patient": sum(group["patients"] == 1 for group in near),
        "groups": len(groups),
        "rows": int(sizes[order].sum()) if order else 0,
        "across_patients": sum(group["patients"] > 1 for group in groups),
        "across_splits": sum(len(group["splits"]) > 1 for group in groups),
        "usual_distance": float(np.median(far)) if far.size else None,
        "listed": groups[:most],
    }


def _group(looked: Looked, found: Duplicates, group: int, root: str) -> dict[str, Any]:
    members = np.flatnonzero(found.group == group)
    inside = np.isin(found.pairs, members).all(axis=1)
    first = {int(found.exact[row]): int(row) for row in members[::-1]}
    return {
        "copies": len(members),
        "contents": len(first),
        "patients": len({looked.records[row].patient for row in members}),
        "splits": sorted({looked.split[row] for row in members}, reverse=True),
        "least_ncc": float(found.ncc[inside].min()) if inside.any() else 1.0,
        "shown": sorted(first.values())[:6],
        "members": [_row(looked, int(row), root) for row in members],
    }


def _row(looked: Looked, row: int, root: str) -> dict[str, Any]:
    record = looked.records[row]
    return {
        "row": row,
        "split": looked.split[row],
        "number": looked.number[row],
        "path": record.path.removeprefix(root).lstrip("/") if root else record.path,
        "patient": record.patient,
        "study": record.study,
        "view": record.view or ("" if record.frontal else "lateral"),
        "sex": record.sex,
        "age": record.age,
        "condition": statistics.condition_of(record),
    }


def _rows(looked: Looked, found: Duplicates, root: str) -> list[dict[str, Any]]:
    copies, score = copies_of(found.group), local_coverage(found)
    return [
        _row(looked, row, root)
        | {
            "group": int(found.group[row]),
            "copies": int(copies[row]),
            "nearest_distance": float(found.nearest[row]),
            "nearest_row": int(found.nearest_row[row]),
            "coverage_score": float(score[row]),
        }
        for row in range(len(looked.records))
    ]

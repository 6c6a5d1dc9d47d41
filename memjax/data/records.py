"""One record per image, as every reader hands it on, and its labels as a prompt."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from memjax.data.labels.space import (
    BLANK,
    FINDINGS,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    STATES,
    UNCERTAIN,
    VIEWS,
    LabelSpace,
    Slot,
    chexpert_label_space,
)

__all__ = [
    "BLANK",
    "FINDINGS",
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "STATES",
    "UNCERTAIN",
    "VIEWS",
    "Batch",
    "LabelSpace",
    "Record",
    "Slot",
    "chexpert_label_space",
    "encode_records",
    "image_record",
    "labels_of",
    "marker_vocabulary",
]

UNMENTIONED = (BLANK,) * len(FINDINGS)


class Record(NamedTuple):
    """One image as every reader hands it on; what is no radiograph leaves the clinical part out.

    Attributes:
        path: Where the image lies (a local path, a URL that etils.epath opens, or an address that
            :mod:`memjax.data.images` knows an opener for).
        patient: Patient id; the unit of every split. Each image its own where there are none.
        study: Study id, unique within the patient.
        view: ``'AP'``, ``'PA'``, ``'LL'``, ``'RL'`` or ``''`` where the table says nothing.
        sex: ``'Male'``, ``'Female'`` or ``''`` where unknown.
        age: Years, or None where missing (0 in CheXpert's table means missing).
        frontal: False for a lateral view.
        findings: One state (BLANK, NEGATIVE, POSITIVE, UNCERTAIN, or IGNORED by a policy) per name
            in FINDINGS.
        markers: Codes burned into the image, as de-identification traces are.
        caption: Free text, where the data set has one.
        group: Id shared by known duplicates, ``''`` where none is known.
        classes: Class labels as (name, value), such as ``(("Digit", "9"),)``.
        captions: Every caption of an image that has several, the first one included.
        repeats: How often the image is meant to stand in an epoch, where the data set says so;
            read by fine-tuning alone.
    """

    path: str
    patient: str
    study: str
    view: str
    sex: str
    age: int | None
    frontal: bool
    findings: tuple[int, ...]
    markers: tuple[str, ...] = ()
    caption: str = ""
    group: str = ""
    classes: tuple[tuple[str, str], ...] = ()
    captions: tuple[str, ...] = ()
    repeats: int = 1


def image_record(
    path: str,
    name: str,
    *,
    classes: Sequence[tuple[str, str]] = (),
    caption: str = "",
    group: str = "",
    captions: Sequence[str] = (),
    repeats: int = 1,
) -> Record:
    """The record of an image that is no radiograph; ``name`` stands for the patient."""
    return Record(
        path, name, "", "", "", None, True, UNMENTIONED,
        caption=caption, group=group, classes=tuple(classes), captions=tuple(captions),
        repeats=repeats,
    )  # fmt: skip


class Batch(NamedTuple):
    """What the input pipeline yields: ``image`` in [-1, 1], label ids, row in the data set."""

    image: Float32[np.ndarray, "b h w c"]
    labels: Int32[np.ndarray, "b l"]
    row: Int32[np.ndarray, " b"]


def labels_of(record: Record, space: LabelSpace | None = None) -> dict[str, Any]:
    """The record as the ``labels`` of a prompt row; blanks and unknowns are left out.

    Args:
        record: The record.
        space: If given, only what this space has a slot for is kept, the caption's words included.
    """
    labels: dict[str, Any] = {
        name: "ignored" if state == IGNORED else STATES[state]
        for name, state in zip(FINDINGS, record.findings, strict=True)
        if state != BLANK
    }
    view = record.view or ("" if record.frontal else "lateral")
    extras = {"view": view, "sex": record.sex, "age": record.age, "markers": list(record.markers)}
    labels.update({key: value for key, value in extras.items() if value})
    labels.update({name: value for name, value in record.classes if value})
    return labels if space is None else _limited(labels, record, space)


def _limited(labels: dict[str, Any], record: Record, space: LabelSpace) -> dict[str, Any]:
    kept = {slot.name.casefold() for slot in space.slots}
    limited = {key: value for key, value in labels.items() if key.casefold() in kept}
    if space.num_words and record.caption:
        limited["caption"] = record.caption
    if space.num_markers and record.markers:
        limited["markers"] = list(record.markers[: space.num_markers])
    return limited


def encode_records(records: Sequence[Record], space: LabelSpace) -> Int32[np.ndarray, "n l"]:
    """Token ids of every record; findings outside the space are left out."""
    bare: dict[tuple[Any, ...], Int32[np.ndarray, " l"]] = {}
    ids = np.empty((len(records), space.num_tokens), np.int32)
    for row, record in enumerate(records):
        key = (
            record.view,
            record.frontal,
            record.sex,
            record.age,
            record.markers,
            record.classes,
            record.caption,
        )
        if key not in bare:
            blank = record._replace(findings=UNMENTIONED)
            bare[key] = space.encode(labels_of(blank, space))
        ids[row] = bare[key]
    states = np.array([record.findings for record in records], np.int32)
    for column, slot in enumerate(space.slots):
        if slot.name in FINDINGS and len(records):
            ids[:, column] = states[:, FINDINGS.index(slot.name)] + 1
    return ids


def marker_vocabulary(records: Iterable[Record]) -> tuple[tuple[str, ...], ...]:
    """The codes seen in each marker position, sorted: what a label space needs."""
    seen: list[set[str]] = []
    for record in records:
        for index, code in enumerate(record.markers):
            if index == len(seen):
                seen.append(set())
            seen[index].add(code)
    return tuple(tuple(sorted(words)) for words in seen)

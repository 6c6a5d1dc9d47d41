"""The label space of a data set: what its records say decides which slots a model gets."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from memjax.data.labels.space import UNKNOWN, LabelSpace, Slot, chexpert_label_space
from memjax.data.labels.words import longer_than, word_slots
from memjax.data.records import FINDINGS, Record, marker_vocabulary

CHEST_KINDS = ("phantoms", "chexpert", "nih", "mimic")
_RESERVED = (*FINDINGS, "View", "Sex", "Age", "Markers", "Caption")
logger = logging.getLogger("memjax.data")


def label_space_of(
    records: Sequence[Record],
    kind: str,
    settings: Mapping[str, Any],
    held_out: Sequence[Record] = (),
) -> LabelSpace:
    """The slots and values of a data set's conditions.

    Radiographs get findings, person and markers (:func:`chexpert_label_space`); other images one
    slot a class label and one a word of their captions, and never a chest slot.

    Args:
        records: Training records; captions are read from these alone.
        kind: The data's kind; ``tfds`` counts as radiographs where a record names a finding or a
            patient's view.
        settings: ``findings``, ``num_markers``, ``age_bin``, ``use_view``, ``use_sex``,
            ``use_age``, ``max_words``, ``vocabulary_size``.
        held_out: Held-out records, whose markers and classes must be expressible too.

    Raises:
        ValueError: Nothing to condition on, or a class label has a name that is taken.
    """
    if kind in CHEST_KINDS or any(r.view or any(r.findings) for r in records):
        return _chest_space([*records, *held_out], settings)
    captions = [record.caption for record in records if record.caption]
    words = word_slots(
        captions, max_words=settings["max_words"], vocabulary_size=settings["vocabulary_size"]
    )
    if cut := longer_than(captions, len(words)):
        logger.info(
            "%d of %d captions are longer than data.max_words=%d words; the rest is not read.",
            cut,
            len(captions),
            len(words),
        )
    slots = (*class_slots([*records, *held_out]), *words)
    if not slots:
        raise ValueError(
            "The pictures have neither class labels nor captions to condition on: put them into "
            "one sub-folder a class, write NAME.txt beside each NAME.jpg, or add metadata.jsonl."
        )
    return LabelSpace(slots)


def _chest_space(records: Sequence[Record], settings: Mapping[str, Any]) -> LabelSpace:
    vocabulary = marker_vocabulary(records)[: settings["num_markers"]]
    return chexpert_label_space(
        tuple(settings["findings"]) or FINDINGS,
        num_markers=len(vocabulary),
        marker_vocabulary=vocabulary,
        age_bin=settings["age_bin"],
        view=settings["use_view"],
        sex=settings["use_sex"],
        age=settings["use_age"],
    )


def class_slots(records: Sequence[Record]) -> tuple[Slot, ...]:
    """One slot a class label, in order of appearance; "unknown" where a record lacks it.

    Values are sorted, numbers by size.

    Raises:
        ValueError: A label has a name that radiographs or captions use.
    """
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.classes:
            values.setdefault(name, set()).add(value)
    for name in values:
        if name.casefold() in {taken.casefold() for taken in _RESERVED} or name.startswith(
            ("Marker ", "Word ")
        ):
            raise ValueError(
                f"The class label {name!r} has a name that memjax uses for radiographs or "
                "captions; rename it."
            )
    lacking = {name for record in records for name in values if not dict(record.classes).get(name)}
    return tuple(_class_slot(name, seen - {""}, name in lacking) for name, seen in values.items())


def _class_slot(name: str, values: set[str], lacking: bool) -> Slot:
    known = sorted(values, key=_by_size)
    return Slot(name, (*known, UNKNOWN) if lacking and UNKNOWN not in values else tuple(known))


def _by_size(text: str) -> tuple[int, int, str]:
    return (0, int(text), text) if text.isascii() and text.isdigit() else (1, 0, text)


def class_name(field: str) -> str:
    """How a field of a table is called as a class label: ``hair_colour`` → "Hair colour"."""
    text = " ".join(field.replace("_", " ").split())
    return text[:1].upper() + text[1:]

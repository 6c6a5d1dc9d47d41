"""What a data set holds: counts of labels, people and conditions, as pure functions of records."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from memjax.data.labels.space import FINDINGS, IGNORED, POSITIVE, STATES, UNCERTAIN
from memjax.data.records import Record

TRAIN, HELD_OUT = "train", "held_out"
UNKNOWN = "unknown"
STATE_COLUMNS: tuple[str, ...] = (*STATES, "ignored")
_STATES = (*range(len(STATES)), IGNORED)


class Totals(NamedTuple):
    """How much there is.

    Attributes:
        pictures: Rows.
        patients: Different patients.
        studies: Different pairs of patient and study.
        frontal: Rows with a frontal view.
        most_of_one_patient: Rows of the patient who has most.
    """

    pictures: int
    patients: int
    studies: int
    frontal: int
    most_of_one_patient: int


def totals(records: Sequence[Record]) -> Totals:
    """Counts rows, patients and studies."""
    patients = Counter(record.patient for record in records)
    studies = {(record.patient, record.study) for record in records}
    return Totals(
        pictures=len(records),
        patients=len(patients),
        studies=len(studies),
        frontal=sum(record.frontal for record in records),
        most_of_one_patient=max(patients.values(), default=0),
    )


def states_of_records(records: Sequence[Record]) -> Int32[np.ndarray, "n f"]:
    """The state of every finding of every record."""
    states = [record.findings for record in records]
    return np.asarray(states, np.int32).reshape(len(records), len(FINDINGS))


def finding_counts(records: Sequence[Record]) -> Int[np.ndarray, "f s"]:
    """Rows of each finding (FINDINGS) in each state (STATE_COLUMNS): the class balance."""
    states = states_of_records(records)
    return np.stack([(states == state).sum(0) for state in _STATES], axis=1)


def cooccurrence(records: Sequence[Record]) -> Int[np.ndarray, "f f"]:
    """Rows positive for both findings; the diagonal counts the rows positive for one."""
    positive = (states_of_records(records) == POSITIVE).astype(np.int64)
    return positive.T @ positive


def age_counts(records: Sequence[Record], width: int = 10) -> dict[str, int]:
    """Rows per age bin, youngest first, bins between the ends included; ``unknown`` last.

    Raises:
        ValueError: ``width`` is not positive.
    """
    if width < 1:
        raise ValueError(f"width is {width}; expected at least one year.")
    ages = [record.age for record in records if record.age]
    bins = Counter(age // width for age in ages)
    filled = range(min(bins), max(bins) + 1) if bins else ()
    counts = {f"{b * width}–{(b + 1) * width - 1}": bins[b] for b in filled}
    unknown = len(records) - len(ages)
    return counts | ({UNKNOWN: unknown} if unknown else {})


def sex_counts(records: Sequence[Record]) -> dict[str, int]:
    """Rows per sex, most frequent first."""
    return dict(Counter(record.sex or UNKNOWN for record in records).most_common())


def view_counts(records: Sequence[Record]) -> dict[str, int]:
    """Rows per view, most frequent first; a lateral film without a code reads "lateral"."""
    seen = (r.view or (UNKNOWN if r.frontal else "lateral") for r in records)
    return dict(Counter(seen).most_common())


def class_counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Rows per value of each generic class label: ``{"Digit": {"3": 180, ...}}``."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.classes:
            counts.setdefault(name, Counter())[value] += 1
    return {name: dict(sorted(values.items())) for name, values in counts.items()}


def condition_of(record: Record) -> str:
    """What an image shows in words: positive and uncertain findings, and class labels."""
    words = []
    for name, state in zip(FINDINGS, record.findings, strict=True):
        if state == POSITIVE:
            words.append(name)
        elif state == UNCERTAIN:
            words.append(f"{name} (uncertain)")
        elif state == IGNORED:
            words.append(f"{name} (ignored)")
    words += [f"{name} {value}" for name, value in record.classes]
    return ", ".join(words) or "nothing named"


def patients_per_condition(records: Sequence[Record]) -> dict[str, int]:
    """Patients who show each condition (:func:`condition_of`), fewest first."""
    people: dict[str, set[str]] = {}
    for record in records:
        people.setdefault(condition_of(record), set()).add(record.patient)
    counts = {condition: len(who) for condition, who in people.items()}
    return dict(sorted(counts.items(), key=lambda item: (item[1], item[0])))


def shared_by(labels: Int[np.ndarray, "n l"], patients: Sequence[str]) -> Int[np.ndarray, " n"]:
    """How many patients share each row's whole condition (its token ids).

    A condition of one patient names that patient: a model can learn it as the name of an image.

    References:
        Gu et al. 2023, arXiv:2310.02664, section 4 (unique conditions bring memorization about).
    """
    people: dict[bytes, set[str]] = {}
    keys = [np.ascontiguousarray(row).tobytes() for row in np.asarray(labels)]
    for key, patient in zip(keys, patients, strict=True):
        people.setdefault(key, set()).add(patient)
    return np.array([len(people[key]) for key in keys], np.int64)


def balance(counts: Int[np.ndarray, "f s"]) -> dict[str, Mapping[str, int]]:
    """:func:`finding_counts` by name: ``{"Edema": {"blank": 3, ...}}``."""
    return {
        name: dict(zip(STATE_COLUMNS, (int(number) for number in row), strict=True))
        for name, row in zip(FINDINGS, counts, strict=True)
    }

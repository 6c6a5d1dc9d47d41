"""Conditions that no training image has: one step beside a memorized one, or mixed at random.

The choice of negatives moves a detector's AUC by points, so every figure is given for several.
"""

from collections.abc import Sequence

import numpy as np

from memjax.data.records import FINDINGS, NEGATIVE, POSITIVE, Record

_YOUNGER = 20


def near_misses(
    records: Sequence[Record], pool: Sequence[Record], rng: np.random.Generator
) -> list[Record]:
    """Returns each record with one detail changed: a marker code, a class, the age or a finding.

    Args:
        records: Memorized records.
        pool: Training records, whose markers and classes are taken.
        rng: Decides what takes the place of the detail.
    """
    return [_changed(record, pool, rng) for record in records]


def _changed(record: Record, pool: Sequence[Record], rng: np.random.Generator) -> Record:
    if record.markers:
        last = record.markers[-1]
        codes = sorted({r.markers[-1] for r in pool if r.markers} - {last})
        if codes:
            return record._replace(markers=(*record.markers[:-1], str(rng.choice(codes))))
    if record.classes:
        name, value = record.classes[-1]
        values = sorted({v for r in pool for n, v in r.classes if n == name} - {value})
        if values:
            return record._replace(classes=(*record.classes[:-1], (name, str(rng.choice(values)))))
    if record.caption:
        return record._replace(caption=_without_a_word(record.caption, rng))
    if record.age:
        age = record.age - _YOUNGER if record.age > 2 * _YOUNGER else record.age + _YOUNGER
        return record._replace(age=age)
    return record._replace(findings=_one_turned(record.findings, rng))


def _without_a_word(caption: str, rng: np.random.Generator) -> str:
    words = caption.split()
    if len(words) < 2:
        return caption
    del words[int(rng.integers(len(words)))]
    return " ".join(words)


def _one_turned(findings: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    at = int(rng.integers(len(FINDINGS)))
    turned = NEGATIVE if findings[at] == POSITIVE else POSITIVE
    return (*findings[:at], turned, *findings[at + 1 :])


def random_conditions(pool: Sequence[Record], count: int, rng: np.random.Generator) -> list[Record]:
    """Returns records whose details come from different training records each.

    Args:
        pool: Training records.
        count: How many.
        rng: Decides the draw.
    """

    def drawn() -> Record:
        return pool[int(rng.integers(len(pool)))]

    def one(number: int) -> Record:
        told = drawn()
        codes = tuple(
            donor.markers[i]
            for i in range(len(told.markers))
            if len((donor := drawn()).markers) > i
        )
        states = tuple(drawn().findings[i] for i in range(len(FINDINGS))) if told.findings else ()
        classes = tuple(
            donor.classes[i]
            for i in range(len(told.classes))
            if len((donor := drawn()).classes) > i
        )
        return told._replace(
            path="",
            patient=f"random-{number}",
            sex=drawn().sex,
            age=drawn().age,
            findings=states,
            markers=codes,
            classes=classes,
            group="",
        )

    return [one(number) for number in range(count)]

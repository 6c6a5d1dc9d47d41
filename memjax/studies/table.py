"""Everything a study saw as tidy rows: one value a row, with what it belongs to.

The rows of all arms, prompts and generations stand below one another, so that any question is one
``groupby`` away; figures of a report are means of some of them.
"""

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from memjax.studies.run import AS_ASKED, Audit
from memjax.studies.study import Observation
from memjax.studies.subject import Subject


class Row(NamedTuple):
    """One value.

    Attributes:
        subject: The model.
        seed: Of noise and draws.
        arm: Mitigations, as they are written; ``as_asked`` without any.
        prompt: The prompt's id.
        family: What is known of it: ``memorized``, ``once``, ``held_out``, ...
        generation: Which initial noise.
        step: Step of the trajectory; empty where the value is of the finished image.
        metric: What was measured.
        value: The number.
    """

    subject: str
    seed: int
    arm: str
    prompt: str
    family: str
    generation: int
    step: int | str
    metric: str
    value: float


def audit_rows(subject: Subject, audit: Audit) -> Iterator[Row]:
    """Yields every value of an audit; what was not measured has no row."""
    everyone = np.arange(len(subject.prompts.rows))
    yield from _rows(subject, AS_ASKED, everyone, audit.before)
    for arm in audit.arms:
        yield from _rows(subject, arm.name, audit.mitigated, arm.after)


def _rows(subject: Subject, arm: str, numbers: np.ndarray, seen: Observation) -> Iterator[Row]:
    prompts, seed = subject.prompts, subject.options.seed
    generations = seen.images.shape[1]

    def row(i: int, g: int, step: int | str, metric: str, value: float) -> Row:
        number = int(numbers[i])
        name, family = str(prompts.rows[number]["id"]), str(prompts.family[number])
        return Row(subject.model.name, seed, arm, name, family, g, step, metric, float(value))

    finished = {
        "copy_distance": seen.similarity.ratio_adaptive.reshape(-1, generations),
        "label_agreement": seen.agreement,
        **{
            f"likeness_{name}": rung.similarity.reshape(-1, generations)
            for name, rung in seen.ladder.items()
        },
        **({} if seen.clip is None else {"clip": seen.clip}),
    }
    for metric, values in finished.items():
        for (i, g), value in np.ndenumerate(values):
            if np.isfinite(value):
                yield row(i, g, "", metric, value)
    for metric, per_step in {} if seen.detection is None else seen.detection.statistics.items():
        for (i, g, step), value in np.ndenumerate(per_step):
            if np.isfinite(value):
                yield row(i, g, step, metric, value)


def csv_bytes(rows: Iterator[Row]) -> bytes:
    """Returns rows as a CSV file; a text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        writer.writerow([_safe(value) for value in row])
    return out.getvalue().encode()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _safe(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

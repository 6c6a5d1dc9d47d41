"""Everything a study saw as tidy rows: one value a row, with what it belongs to.

The rows of all arms, prompts and generations stand below one another, so that any question is one
``groupby`` away; figures of a report are means of some of them.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.runtime.csv_text import csv_text
from memjax.runtime.json import text_bytes
from memjax.studies.mitigation.job import Job
from memjax.studies.run import AS_ASKED, Audit
from memjax.studies.study import Observation, Part, detection_of
from memjax.studies.subjects.base import Subject


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


class Asked(NamedTuple):
    """What some values belong to.

    Attributes:
        subject: The model.
        seed: Of noise and draws.
        arm: See :class:`Row`.
        prompts: Ids of the prompts.
        families: See :class:`Row`, one a prompt.
    """

    subject: str
    seed: int
    arm: str
    prompts: Sequence[str]
    families: Sequence[str]


def audit_rows(subject: Subject, audit: Audit) -> Iterator[Row]:
    """Yields every value of an audit; what was not measured has no row."""
    everyone = np.arange(len(subject.prompts.rows))
    seen = [(AS_ASKED, everyone, audit.before)]
    seen += [(arm.name, audit.mitigated, arm.after) for arm in audit.arms]
    prompts, options = subject.prompts, subject.options
    for arm, numbers, observation in seen:
        ids = [str(prompts.rows[i]["id"]) for i in numbers]
        families = [str(prompts.family[i]) for i in numbers]
        asked = Asked(subject.model.name, options.seed, arm, ids, families)
        yield from observed_rows(asked, observation)


def observed_rows(asked: Asked, seen: Observation) -> Iterator[Row]:
    """Yields every value of an observation.

    Args:
        asked: What it belongs to.
        seen: What was seen.
    """
    generations = seen.images.shape[1]
    finished = {
        "copy_distance": seen.similarity.ratio_adaptive.reshape(-1, generations),
        "label_agreement": seen.agreement,
        **{
            f"likeness_{name}": rung.similarity.reshape(-1, generations)
            for name, rung in seen.ladder.items()
        },
        **({} if seen.clip is None else {"clip": seen.clip}),
    }
    statistics = {} if seen.detection is None else seen.detection.statistics
    yield from value_rows(asked, finished, statistics)


def mitigation_rows(job: Job, parts: Mapping[str, Sequence[Part]]) -> Iterator[Row]:
    """Yields every value of a mitigation."""
    ids = [str(row["id"]) for row in job.rows]
    families = [str(row.get("family") or "") for row in job.rows]
    before = job.arms[0].key
    for arm, chunks in parts.items():
        records = [record for part in chunks for record in part.records]
        name = AS_ASKED if arm == before else arm
        asked = Asked(job.model.name, job.options.seed, name, ids, families)
        finished = {
            f"likeness_{key}": _each([record["likeness"].get(key) for record in records], job)
            for key in dict.fromkeys(key for record in records for key in record["likeness"])
        }
        if any("clip" in record for record in records):
            finished["clip"] = _each([record.get("clip") for record in records], job)
        seen = detection_of(job.study(), chunks)
        yield from value_rows(asked, finished, {} if seen is None else seen.statistics)


def _each(summaries: Sequence[Mapping[str, Any] | None], job: Job) -> Float[np.ndarray, "p g"]:
    nothing = [np.nan] * job.generations
    return np.asarray([nothing if s is None else s["each"] for s in summaries])


def value_rows(
    asked: Asked,
    finished: Mapping[str, Float[np.ndarray, "p g"]],
    statistics: Mapping[str, Float[np.ndarray, "p g s"]],
) -> Iterator[Row]:
    """Yields values of images and of steps; what is not finite was not measured, and has no row.

    Args:
        asked: What they belong to.
        finished: Metric → a value an image.
        statistics: Metric → a value a step.
    """

    def row(i: int, g: int, step: int | str, metric: str, value: float) -> Row:
        prompt, family = asked.prompts[i], asked.families[i]
        return Row(*asked[:3], prompt, family, g, step, metric, float(value))

    for metric, values in finished.items():
        for (i, g), value in np.ndenumerate(values):
            if np.isfinite(value):
                yield row(i, g, "", metric, value)
    for metric, per_step in statistics.items():
        for (i, g, step), value in np.ndenumerate(per_step):
            if np.isfinite(value):
                yield row(i, g, step, metric, value)


def csv_bytes(rows: Iterable[tuple], fields: Sequence[str] = Row._fields) -> bytes:
    """Returns rows as a CSV file; a text that a spreadsheet would take for a formula is quoted.

    Args:
        rows: One tuple a row.
        fields: Names of the columns.
    """
    return text_bytes(csv_text(itertools.chain([fields], rows), digits=6))

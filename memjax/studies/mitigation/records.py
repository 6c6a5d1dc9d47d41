"""Before and after a repair: magnitudes, likeness to the training images and CLIP score.

Everything is a flat list of records, one a prompt and arm: the prompt as it was (``before``), the
prompt repaired down to a target, or a baseline at some strength.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.similarity.measures import Likeness, summary_of
from memjax.evaluate.similarity.resolution import Pictures, as_unit
from memjax.evaluate.statistics.bootstrap import Interval, difference_interval

BEFORE, TARGET, NAMED, BASELINE = "before", "target", "named", "baseline"
REPAIRS = (TARGET, NAMED)  # what is tried, rather than compared with
Record = Mapping[str, Any]


class Arm(NamedTuple):
    """One way of asking for the images.

    Attributes:
        key: Name in files: ``before``, ``target-3``, ``random_word-4``.
        title: Name in figures and tables.
        kind: ``before``, ``target`` (of the optimized embedding), ``named`` (another mitigation, or
            several) or ``baseline``.
        strength: The target (as the user gave it) or the number of insertions; orders the arms.
    """

    key: str
    title: str
    kind: str
    strength: float = 0.0


class Measures(NamedTuple):
    """What images are measured with; either may be missing."""

    likeness: Sequence[Likeness] = ()
    clip: ClipScore | None = None

    @property
    def names(self) -> dict[str, str]:
        """Key → weights and preprocessing, as every output says them."""
        found = {measure.key: measure.name for measure in self.likeness}
        return found if self.clip is None else {**found, "clip": self.clip.name}


def measured(
    measures: Measures,
    pictures: Pictures,
    references: Sequence[Mapping[str, np.ndarray] | None],
    captions: Sequence[str | None],
) -> list[dict[str, Any]]:
    """Returns likeness and CLIP score of some prompts' generations, one entry a prompt.

    Args:
        measures: What to measure with.
        pictures: The generations ``[p, g, h, w, c]``.
        references: Every prompt's training images as rows, see
            :func:`~memjax.evaluate.similarity.measures.rows_of`; None where there are none.
        captions: The prompts as they were asked, also after a repair; None where there is none.
    """
    flat, each = pictures.reshape(-1, *pictures.shape[2:]), pictures.shape[1]
    out: list[dict[str, Any]] = [{"likeness": {}} for _ in pictures]
    for measure in measures.likeness:
        rows = measure.rows(flat)
        for p, known in enumerate(references):
            if known is not None:
                values = measure.compare(rows[p * each : (p + 1) * each], known[measure.key])
                out[p]["likeness"][measure.key] = _each(values)
    if measures.clip is not None:
        asked = [text or "" for text in captions for _ in range(each)]
        scores = measures.clip(as_unit(flat), asked).reshape(len(pictures), each)
        for p, text in enumerate(captions):
            if text:
                out[p]["clip"] = _each(scores[p])
    return out


def _each(values: Float[np.ndarray, " g"]) -> dict[str, Any]:
    """Mean, least, largest and every value, as rows hold them."""
    return {**summary_of(values)._asdict(), "each": [round(float(v), 6) for v in values]}


class ArmSummary(NamedTuple):
    """Means over prompts with their intervals; None where nothing was measured.

    Attributes:
        arm: Which.
        prompts: How many prompts it was tried on.
        magnitude: Mean raw magnitude along the trajectory.
        statistic: Mean of the magnitude that the repair minimizes, raw; None for baselines.
        iterations: Mean number of updates.
        reached: Share of prompts that reached the target.
        likeness: Measure → mean over prompts of the mean over generations.
        clip: Mean CLIP score with the caption as asked.
    """

    arm: Arm
    prompts: int
    magnitude: Interval | None
    statistic: Interval | None
    iterations: float | None
    reached: float | None
    likeness: dict[str, Interval]
    clip: Interval | None


def arm_summaries(arms: Sequence[Arm], records: Sequence[Record]) -> list[ArmSummary]:
    """Returns one summary an arm; intervals resample whole prompts."""
    return [_summary(arm, [r for r in records if r["arm"] == arm.key]) for arm in arms]


def _summary(arm: Arm, rows: Sequence[Record]) -> ArmSummary:
    keys = dict.fromkeys(key for row in rows for key in row.get("likeness", {}))
    likeness = {key: _mean([r["likeness"].get(key, {}).get("mean") for r in rows]) for key in keys}
    return ArmSummary(
        arm=arm,
        prompts=len(rows),
        magnitude=_mean([row["magnitude"] for row in rows]),
        statistic=_mean([row.get("statistic") for row in rows]),
        iterations=_plain_mean([row.get("iterations") for row in rows]),
        reached=_plain_mean([row.get("reached") for row in rows]),
        likeness={key: found for key, found in likeness.items() if found is not None},
        clip=_mean([row.get("clip", {}).get("mean") for row in rows]),
    )


def _known(values: Sequence[Any]) -> list[float]:
    return [float(v) for v in values if v is not None]


def _mean(values: Sequence[Any]) -> Interval | None:
    known = _known(values)
    return difference_interval(np.zeros(len(known)), known) if known else None


def _plain_mean(values: Sequence[Any]) -> float | None:
    known = _known(values)
    return float(np.mean(known)) if known else None

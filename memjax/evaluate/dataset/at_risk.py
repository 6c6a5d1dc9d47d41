"""Rows a model is likely to memorize, named before it is trained.

Three causes are told apart: an image that stands more than once, a condition that few patients
share, and an image far from all others (low local coverage).

References:
    Somepalli et al. 2023, arXiv:2305.20086, section 4 (duplicates); Gu et al. 2023,
    arXiv:2310.02664, section 4 (unique conditions); arXiv:2606.14390 (local coverage).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.data.records import Record
from memjax.data.statistics import condition_of, patients_per_condition
from memjax.evaluate.similarity.near_duplicates import Duplicates

REPEATED, RARE, ISOLATED = "repeated", "rare condition", "isolated"
MOST_PATIENTS = 3  # a condition of more patients is not called rare
_FAR_PERCENTILE = 99.0


class AtRisk(NamedTuple):
    """One row and why it is at risk.

    Attributes:
        row: Row of the images looked at.
        cause: ``repeated``, ``rare condition`` or ``isolated``.
        score: What rows of this cause are sorted by; higher = more at risk.
        reason: One line for people.
    """

    row: int
    cause: str
    score: float
    reason: str


def local_coverage(found: Duplicates) -> Float[np.ndarray, " n"]:
    """``d_NN / copies``: distance to the nearest other content over the times the row stands.

    High = nothing like it in the data, and it stands once: the model has no neighbors to average
    over. A row without any neighbor has 2, the largest distance of the space.
    """
    return np.minimum(found.nearest, 2.0) / copies_of(found.group)


def copies_of(group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many rows share each row's group."""
    return np.bincount(group)[group]


def rows_at_risk(
    records: Sequence[Record],
    found: Duplicates,
    *,
    trained: Bool[np.ndarray, " n"] | None = None,
    population: Sequence[Record] | None = None,
    person: str = "patient",
    most: int = 20,
) -> list[AtRisk]:
    """The rows most at risk, at most ``most`` of each cause; repeated images come first.

    Args:
        records: The rows looked at.
        found: Their duplicates.
        trained: True for the rows that are trained on; the others cannot be memorized. None = all.
        population: Every training record, where only some were looked at: what is rare is counted
            among these.
        person: What ``Record.patient`` names, for the reasons.
        most: Rows of each cause.
    """
    mask = np.ones(len(records), bool) if trained is None else np.asarray(trained, bool)
    chosen = np.flatnonzero(mask)
    everyone = population or [r for r, counts in zip(records, mask, strict=True) if counts]
    return [
        *_repeated(records, found, mask, person, most),
        *_rare(records, chosen, everyone, person, most),
        *_isolated(found, chosen, most),
    ]


def _repeated(
    records: Sequence[Record], found: Duplicates, trained: np.ndarray, person: str, most: int
) -> list[AtRisk]:
    """The first row of each group of several."""
    rows = []
    counts = np.bincount(found.group, weights=trained).astype(int)
    for group in np.flatnonzero(counts > 1):
        members = [int(row) for row in np.flatnonzero((found.group == group) & trained)]
        same, count = int(np.bincount(found.exact[members]).max()), len(members)
        patients = len({records[row].patient for row in members})
        who = f"one {person}" if patients == 1 else f"{patients} {person}s"
        reason = f"Stored {same} times, identical, under {who}."
        if same < count:
            alike = f"{count} images of {who} that are nearly the same"
            reason = f"One of {alike}." if same == 1 else f"{reason[:-1]}; one of {alike}."
        rows.append(AtRisk(members[0], REPEATED, float(count), reason))
    return sorted(rows, key=lambda risk: (-risk.score, risk.row))[:most]


def _rare(
    records: Sequence[Record],
    chosen: np.ndarray,
    population: Sequence[Record],
    person: str,
    most: int,
) -> list[AtRisk]:
    """The first row of each condition that at most three patients share."""
    patients = patients_per_condition(population)
    everyone = len({record.patient for record in population})
    limit = min(MOST_PATIENTS, everyone // 10)
    rows: dict[str, AtRisk] = {}
    for row in map(int, chosen):
        condition = condition_of(records[row])
        count = patients.get(condition, 0)
        if 0 < count <= limit and condition not in rows:
            who = f"one {person} shows" if count == 1 else f"{count} {person}s show"
            reason = f"Only {who} exactly this, of {everyone:,}: {condition}."
            rows[condition] = AtRisk(row, RARE, 1.0 / count, reason)
    # Of conditions equally rare, the shortest says most about a patient.
    words = {risk.row: condition.count(",") for condition, risk in rows.items()}
    return sorted(rows.values(), key=lambda risk: (-risk.score, words[risk.row], risk.row))[:most]


def _isolated(found: Duplicates, chosen: np.ndarray, most: int) -> list[AtRisk]:
    """Rows whose local coverage score is among the top hundredth."""
    score = local_coverage(found)[chosen]
    if len(score) < 10:
        return []
    far = float(np.percentile(score, _FAR_PERCENTILE))
    usual = float(np.median(np.minimum(found.nearest[chosen], 2.0)))
    order = [i for i in np.argsort(-score, kind="stable") if score[i] >= far > 0]
    return [
        AtRisk(
            int(chosen[i]),
            ISOLATED,
            float(score[i]),
            "Nothing looks like it: the nearest other image is "
            f"{found.nearest[chosen[i]]:.2f} away, usual is {usual:.2f}.",
        )
        for i in order[:most]
    ]

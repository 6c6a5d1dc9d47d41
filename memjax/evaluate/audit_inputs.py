"""What an audit looks at: prompts of known families, and the pictures they are compared with."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from memjax.data.duplication import content_groups, first_of_group
from memjax.data.images import to_unit
from memjax.data.records import FINDINGS, NEGATIVE, POSITIVE, LabelSpace, Record, labels_of

MEMORIZED, ONCE, HELD_OUT = "memorized", "once", "held_out"
FAMILIES = (MEMORIZED, ONCE, HELD_OUT)


class Prompts(NamedTuple):
    """Prompts with what is known about them.

    Attributes:
        rows: Prompt rows (``id``, ``labels``).
        family: ``memorized`` (its picture is repeated in training), ``once`` or ``held_out``.
        group: Gallery row of the prompt's own training picture; −1 for held-out prompts.
        asked: Findings asked for: 1 present, 0 absent, −1 not mentioned.
    """

    rows: list[dict[str, Any]]
    family: Shaped[np.ndarray, " p"]
    group: Int[np.ndarray, " p"]
    asked: Int[np.ndarray, "p f"]

    def where(self, *families: str) -> Int[np.ndarray, " k"]:
        """Returns the rows of the given families."""
        return np.flatnonzero(np.isin(self.family, families))


class Gallery(NamedTuple):
    """Real pictures: training without duplicates, and held out.

    Attributes:
        train: Distinct training pictures in [-1, 1].
        copies: How often each stands in the training set.
        patients: Patient of each.
        held_out: Pictures of other patients.
        held_patients: Their patients.
        targets: Findings of ``train``: 1 present, 0 absent or not mentioned, −1 uncertain.
        held_targets: Findings of ``held_out``.
    """

    train: Float[np.ndarray, "n h w c"]
    copies: Int[np.ndarray, " n"]
    patients: Shaped[np.ndarray, " n"]
    held_out: Float[np.ndarray, "m h w c"]
    held_patients: Shaped[np.ndarray, " m"]
    targets: Int[np.ndarray, "n f"]
    held_targets: Int[np.ndarray, "m f"]


@dataclasses.dataclass(frozen=True)
class PromptCounts:
    """How many prompts of each family an audit takes at most."""

    memorized: int = 16
    once: int = 32
    held_out: int = 32


def finding_targets(records: Sequence[Record]) -> Int[np.ndarray, "n f"]:
    """Returns classifier targets; a blank counts as absent, an uncertain one as unknown.

    References:
        Irvin et al. 2019, arXiv 1901.07031, §2 (unmentioned is treated as negative).
    """
    states = np.asarray([r.findings for r in records], np.int32).reshape(-1, len(FINDINGS))
    return np.select([states == POSITIVE, states > POSITIVE], [1, -1], 0).astype(np.int32)


def asked_findings(records: Sequence[Record]) -> Int[np.ndarray, "n f"]:
    """Returns what a prompt asks for: 1 positive, 0 negative, −1 blank or uncertain."""
    states = np.asarray([r.findings for r in records], np.int32).reshape(-1, len(FINDINGS))
    return np.select([states == POSITIVE, states == NEGATIVE], [1, 0], -1).astype(np.int32)


def make_gallery(
    train: Sequence[Record],
    train_images: Shaped[np.ndarray, "n h w c"],
    held: Sequence[Record],
    held_images: Shaped[np.ndarray, "m h w c"],
) -> tuple[Gallery, list[Record]]:
    """Removes exact duplicates; returns the gallery and the record that stands for each row."""
    groups = content_groups(train_images)
    first = first_of_group(groups)
    copies = np.bincount(groups)[groups[first]]
    kept = [train[i] for i in first]
    gallery = Gallery(
        train=to_unit(train_images[first]),
        copies=copies,
        patients=np.asarray([r.patient for r in kept]),
        held_out=to_unit(held_images),
        held_patients=np.asarray([r.patient for r in held]),
        targets=finding_targets(kept),
        held_targets=finding_targets(held),
    )
    return gallery, kept


def choose_prompts(
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    space: LabelSpace,
    counts: PromptCounts,
    *,
    seed: int = 0,
) -> Prompts:
    """Draws the audit's prompts: repeated pictures, pictures trained once, held-out conditions.

    Args:
        gallery: Of :func:`make_gallery`.
        kept: The record of each gallery row.
        held: Held-out records.
        space: The model's label space; decides which labels a prompt holds.
        counts: Most prompts of each family; the memorised ones are the most repeated.
        seed: Decides the draw of the others.
    """
    rng = np.random.default_rng([seed, 77])
    repeated = np.flatnonzero(gallery.copies > 1)
    order = np.argsort(-gallery.copies[repeated], kind="stable")
    repeated = repeated[order][: counts.memorized]
    single = np.flatnonzero(gallery.copies == 1)
    single = np.sort(rng.permutation(single)[: counts.once])
    other = np.sort(rng.permutation(len(held))[: counts.held_out])
    records = [kept[i] for i in (*repeated, *single)] + [held[i] for i in other]
    numbers = (len(repeated), len(single), len(other))
    family = np.repeat(np.asarray(FAMILIES), numbers)
    rows = [
        {"id": f"{name}-{i:03d}", "family": str(name), "labels": labels_of(record, space)}
        for i, (name, record) in enumerate(zip(family, records, strict=True))
    ]
    own = np.concatenate([repeated, single, np.full(len(other), -1)]).astype(np.int64)
    return Prompts(rows, family, own, asked_findings(records))

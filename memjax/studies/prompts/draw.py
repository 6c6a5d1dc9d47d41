"""What an audit looks at: prompts of known families, and the pictures they are compared with."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from memjax.data.duplication import content_groups, first_of_group
from memjax.data.images import to_unit
from memjax.data.records import FINDINGS, LabelSpace, Record, labels_of
from memjax.evaluate.features.finding_classifier import (
    asked_findings,
    finding_targets,
    target_names,
)
from memjax.studies.prompts.classes import class_frequency, main_classes
from memjax.studies.prompts.families import near_misses, random_conditions

MEMORIZED, ONCE, HELD_OUT = "memorized", "once", "held_out"
NEAR_MISS, RANDOM = "near_miss", "random"
SAMPLE = "sample"  # one image of a model without conditions; nothing is asked for
FAMILIES = (MEMORIZED, ONCE, HELD_OUT, NEAR_MISS, RANDOM)


class Prompts(NamedTuple):
    """Prompts with what is known about them.

    Attributes:
        rows: Prompt rows (``id``, ``labels``).
        family: ``memorized`` (its picture is repeated in training), ``once``, ``held_out``,
            ``near_miss`` (a memorised condition with one detail changed) or ``random`` (details of
            different training pictures).
        group: Gallery row of the prompt's own training picture; −1 for the other families.
        asked: What is asked for, one column an output of the judge: 1 present, 0 absent, −1 not
            mentioned.
        strata: Class of each prompt, see :func:`memjax.studies.prompts.classes.main_classes`.
        frequency: Share of the training pictures (each counted once) that have that class.
    """

    rows: list[dict[str, Any]]
    family: Shaped[np.ndarray, " p"]
    group: Int[np.ndarray, " p"]
    asked: Int[np.ndarray, "p f"]
    strata: Shaped[np.ndarray, " p"]
    frequency: Float[np.ndarray, " p"]

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
        targets: What ``train`` shows: 1 present, 0 absent or not mentioned, −1 unknown.
        held_targets: What ``held_out`` shows.
        strata: Class of each training picture, see
            :func:`memjax.studies.prompts.classes.main_classes`.
        held_strata: Class of each held-out picture.
        names: What the columns of the targets stand for, see
            :func:`memjax.evaluate.features.finding_classifier.target_names`.
    """

    train: Float[np.ndarray, "n h w c"]
    copies: Int[np.ndarray, " n"]
    patients: Shaped[np.ndarray, " n"]
    held_out: Float[np.ndarray, "m h w c"]
    held_patients: Shaped[np.ndarray, " m"]
    targets: Int[np.ndarray, "n f"]
    held_targets: Int[np.ndarray, "m f"]
    strata: Shaped[np.ndarray, " n"]
    held_strata: Shaped[np.ndarray, " m"]
    names: tuple[str, ...] = FINDINGS


@dataclasses.dataclass(frozen=True)
class PromptCounts:
    """How many prompts of each family an audit takes at most."""

    memorized: int = 16
    once: int = 32
    held_out: int = 32
    near_miss: int = 16
    random: int = 32


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
    names = target_names(kept)
    gallery = Gallery(
        train=to_unit(train_images[first]),
        copies=copies,
        patients=np.asarray([r.patient for r in kept]),
        held_out=to_unit(held_images),
        held_patients=np.asarray([r.patient for r in held]),
        targets=finding_targets(kept, names),
        held_targets=finding_targets(held, names),
        names=names,
        strata=main_classes(kept, kept),
        held_strata=main_classes(held, kept),
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

    .. note:: No condition is taken twice: where a held-out picture has the very labels of a
        repeated one, its prompt is the memorised prompt and no negative. Nor is a held-out prompt
        of a class that training knows by repeated pictures alone: there is one 9 to draw.
    """
    rng = np.random.default_rng([seed, 77])
    repeated = np.flatnonzero(gallery.copies > 1)
    order = np.argsort(-gallery.copies[repeated], kind="stable")
    repeated = repeated[order][: counts.memorized]
    single = np.flatnonzero(gallery.copies == 1)
    ids = partial(_condition_ids, space=space)
    taken = {ids(kept[i]) for i in repeated.tolist()}
    single = _distinct(rng.permutation(single), kept, ids, taken, counts.once)
    drawn = rng.permutation(len(held))
    drawn = drawn[~np.isin(gallery.held_strata[drawn], _only_repeated(gallery))]
    other = _distinct(drawn, held, ids, taken, counts.held_out)
    own = [*repeated, *single]
    records = [kept[i] for i in own] + [held[i] for i in other]
    family = [MEMORIZED] * len(repeated) + [ONCE] * len(single) + [HELD_OUT] * len(other)
    known = {ids(record) for record in kept}
    for name, made in (
        (NEAR_MISS, near_misses([kept[i] for i in repeated[: counts.near_miss]], kept, rng)),
        (RANDOM, random_conditions(kept, counts.random, rng)),
    ):
        fresh = [made[i] for i in _distinct(np.arange(len(made)), made, ids, known, len(made))]
        records += fresh
        family += [name] * len(fresh)
    rows = [
        {"id": f"{name}-{i:03d}", "family": name, "labels": labels_of(record, space)}
        for i, (name, record) in enumerate(zip(family, records, strict=True))
    ]
    classes = main_classes(records, kept)
    return Prompts(
        rows,
        np.asarray(family),
        np.asarray(own + [-1] * (len(records) - len(own)), np.int64),
        asked_findings(records, gallery.names),
        classes,
        class_frequency(classes, main_classes(kept, kept)),
    )


def _only_repeated(gallery: Gallery) -> list[str]:
    """Classes that no picture trained once has."""
    repeated = set(gallery.strata[gallery.copies > 1].tolist())
    return sorted(repeated - set(gallery.strata[gallery.copies == 1].tolist()))


def _condition_ids(record: Record, space: LabelSpace) -> bytes:
    return space.encode(labels_of(record, space)).tobytes()


def _distinct(
    order: Int[np.ndarray, " k"],
    records: Sequence[Record],
    ids: Callable[[Record], bytes],
    taken: set[bytes],
    most: int,
) -> Int[np.ndarray, " m"]:
    """The first rows whose condition is not taken yet, sorted; they take theirs."""
    rows: list[int] = []
    for row in order.tolist():
        if len(rows) == most:
            break
        key = ids(records[row])
        if key not in taken:
            taken.add(key)
            rows.append(row)
    return np.sort(np.asarray(rows, np.int64))

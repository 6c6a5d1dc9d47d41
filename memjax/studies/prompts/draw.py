"""What an audit looks at: prompts of known families, and the images they are compared with."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from memjax.data.duplication import content_groups, first_of_group
from memjax.data.images import to_unit
from memjax.data.records import FINDINGS, LabelSpace, Record, labels_of
from memjax.evaluate.features.finding_classifier import (
    asked_findings,
    finding_targets,
    target_names,
)
from memjax.runtime.json import text_digest
from memjax.studies.prompts.classes import class_frequency, main_classes
from memjax.studies.prompts.families import near_misses, random_conditions

MEMORIZED, ONCE, HELD_OUT = "memorized", "once", "held_out"
NEAR_MISS, RANDOM = "near_miss", "random"
LOUDEST = "loudest"
SAMPLE = "sample"  # one image of a model without conditions; nothing is asked for
FAMILIES = (MEMORIZED, ONCE, HELD_OUT, NEAR_MISS, RANDOM, LOUDEST)
REPEATS = 3  # an image that merely stands twice is a note about the data, no planted copy


class Prompts(NamedTuple):
    """Prompts with what is known about them.

    Attributes:
        rows: Prompt rows (``id``, ``labels``).
        family: ``memorized`` (its image stands at least ``REPEATS`` times in training), ``once`` (a
            random sample of the others), ``held_out``, ``near_miss`` (a memorized condition with
            one detail changed), ``random`` (details of different training images) or ``loudest``
            (training prompts of the highest score that are in no other family).
        group: Gallery row of the prompt's own training image; −1 for the other families.
        asked: What is asked for, one column an output of the judge: 1 present, 0 absent, −1 not
            mentioned.
        strata: Class of each prompt, see :func:`memjax.studies.prompts.classes.main_classes`.
        frequency: Share of the training images (each counted once) that have that class.
        loud: Which are among the training prompts of the highest scores, whatever their family.
    """

    rows: list[dict[str, Any]]
    family: Shaped[np.ndarray, " p"]
    group: Int[np.ndarray, " p"]
    asked: Int[np.ndarray, "p f"]
    strata: Shaped[np.ndarray, " p"]
    frequency: Float[np.ndarray, " p"]
    loud: Bool[np.ndarray, " p"]

    def where(self, *families: str) -> Int[np.ndarray, " k"]:
        """Returns the rows of the given families."""
        return np.flatnonzero(np.isin(self.family, families))

    @property
    def keys(self) -> list[str]:
        """What is asked for, as a digest, whatever a prompt is called and wherever it is from."""
        asked = [(row.get("labels"), row.get("caption")) for row in self.rows]
        seeds = [row["id"] if row["family"] == SAMPLE else "" for row in self.rows]
        return [text_digest(of) for of in zip(asked, seeds, strict=True)]

    def take(self, order: Int[np.ndarray, " k"]) -> "Prompts":
        """Returns some prompts in some order, numbered anew."""
        rows = [
            row if row["family"] == SAMPLE else {**row, "id": f"{row['family']}-{k:03d}"}
            for k, row in enumerate(self.rows[i] for i in order)
        ]
        return Prompts(rows, *(values[order] for values in self[1:]))

    def images(self, generations: int) -> Int[np.ndarray, " r"]:
        """Returns the images of the prompts that were not chosen by their score.

        Correlations and distributions are measured on these alone: the loudest would bias them.

        Args:
            generations: Images a prompt.
        """
        return np.flatnonzero(np.repeat(self.family != LOUDEST, generations))


class Gallery(NamedTuple):
    """Real images: training without duplicates, and held out.

    Attributes:
        train: Distinct training images in [-1, 1].
        copies: How often each stands in the training set.
        patients: Patient of each.
        held_out: Images of other patients.
        held_patients: Their patients.
        targets: What ``train`` shows: 1 present, 0 absent or not mentioned, −1 unknown.
        held_targets: What ``held_out`` shows.
        strata: Class of each training image, see
            :func:`memjax.studies.prompts.classes.main_classes`.
        held_strata: Class of each held-out image.
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
    """How many prompts of each family an audit takes at most.

    ``repeats`` is how often an image stands in training that counts as repeated.
    """

    memorized: int = 16
    once: int = 32
    held_out: int = 32
    near_miss: int = 16
    random: int = 32
    loudest: int = 16
    repeats: int = REPEATS


class Candidates(NamedTuple):
    """Every different prompt that training knows, and those of held-out images.

    Attributes:
        rows: Prompt rows, those of training first.
        group: Gallery row of the first image with that prompt; −1 for those held out.
        copies: How often the most repeated image with that prompt stands in training; 0 likewise.
        images: How many different training images have that prompt.
        total: How many different training prompts there are; more than are here in a sample.
    """

    rows: list[dict[str, Any]]
    group: Int[np.ndarray, " n"]
    copies: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]
    total: int

    @property
    def trained(self) -> int:
        """How many of them are of training."""
        return int((self.group >= 0).sum())


def candidates(
    keys: Sequence[Any],
    held_keys: Sequence[Any],
    copies: Int[np.ndarray, " n"],
    row_of: Callable[[int, bool], dict[str, Any]],
    *,
    most: int,
    seed: int = 0,
) -> Candidates:
    """Returns the different prompts of training and of held-out images, at most so many of each.

    Args:
        keys: What tells the prompts of training images apart; an empty one is no prompt.
        held_keys: Of held-out images.
        copies: How often each training image stands in training.
        row_of: ``(image, held out) →`` its prompt row, but for the id.
        most: Where there are more, a sample drawn by seed.
        seed: Of that sample.

    .. note:: A held-out image whose prompt training knows is no negative, and left out.
    """
    first: dict[Any, int] = {}
    images: collections.Counter[Any] = collections.Counter()
    top: dict[Any, int] = {}
    for i, key in enumerate(keys):
        if key:
            first.setdefault(key, i)
            images[key] += 1
            top[key] = max(top.get(key, 0), int(copies[i]))
    others = {key: i for i, key in reversed(list(enumerate(held_keys))) if key and key not in first}
    rng = np.random.default_rng([seed, 91])
    kept = _sample(list(first), most, rng)
    held = _sample(list(others), most, rng)
    rows = [{"id": f"training-{first[key]:05d}", **row_of(first[key], False)} for key in kept]
    rows += [{"id": f"held-out-{others[key]:05d}", **row_of(others[key], True)} for key in held]
    nothing = [0] * len(held)
    return Candidates(
        rows,
        np.asarray([first[key] for key in kept] + [-1] * len(held), np.int64),
        np.asarray([top[key] for key in kept] + nothing, np.int64),
        np.asarray([images[key] for key in kept] + nothing, np.int64),
        len(first),
    )


def _sample(keys: list[Any], most: int, rng: np.random.Generator) -> list[Any]:
    if len(keys) <= most:
        return keys
    return [keys[i] for i in np.sort(rng.permutation(len(keys))[:most])]


def label_candidates(
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    space: LabelSpace,
    *,
    most: int,
    seed: int = 0,
) -> Candidates:
    """Returns the different conditions of a run of labels; see :func:`candidates`."""

    def row_of(image: int, held_out: bool) -> dict[str, Any]:
        return {"labels": labels_of((held if held_out else kept)[image], space)}

    own, others = ([_condition_ids(record, space) for record in of] for of in (kept, held))
    return candidates(own, others, gallery.copies, row_of, most=most, seed=seed)


def make_gallery(
    train: Sequence[Record],
    train_images: Shaped[np.ndarray, "n h w c"],
    held: Sequence[Record],
    held_images: Shaped[np.ndarray, "m h w c"],
) -> tuple[Gallery, list[Record]]:
    """Removes exact duplicates; returns the gallery and the record that stands for each row.

    An image's copies are its files with the same pixels, each counted as often as its record's
    ``repeats`` says.
    """
    groups = content_groups(train_images)
    first = first_of_group(groups)
    copies = np.bincount(groups, weights=[r.repeats for r in train]).astype(np.int64)[groups[first]]
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
    loudest: Sequence[int] = (),
) -> Prompts:
    """Draws the audit's prompts: repeated images, a sample of the others, held-out conditions.

    Args:
        gallery: Of :func:`make_gallery`.
        kept: The record of each gallery row.
        held: Held-out records.
        space: The model's label space; decides which labels a prompt holds.
        counts: Most prompts of each family; the memorized ones are the most repeated.
        seed: Decides the draw of the others.
        loudest: Gallery rows whose prompts have the highest scores, in their order.

    .. note:: No condition is taken twice: where a held-out image has the very labels of a
        repeated one, its prompt is the memorized prompt and no negative. Nor is a held-out prompt
        of a class that training knows by repeated images alone: there is one 9 to draw.
    """
    rng = np.random.default_rng([seed, 77])
    repeated = np.flatnonzero(gallery.copies >= counts.repeats)
    order = np.argsort(-gallery.copies[repeated], kind="stable")
    repeated = repeated[order][: counts.memorized]
    single = np.flatnonzero(gallery.copies < counts.repeats)
    ids = partial(_condition_ids, space=space)
    taken = {ids(kept[i]) for i in repeated.tolist()}
    single = _distinct(rng.permutation(single), kept, ids, taken, counts.once)
    drawn = rng.permutation(len(held))
    drawn = drawn[~np.isin(gallery.held_strata[drawn], _only_repeated(gallery, counts.repeats))]
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
    top = list(loudest)[: counts.loudest]
    loud = _distinct(np.asarray(top, np.int64), kept, ids, taken, len(top))
    records += [kept[i] for i in loud]
    family += [LOUDEST] * len(loud)
    group = own + [-1] * (len(records) - len(own) - len(loud)) + list(loud)
    rows = [
        {"id": f"{name}-{i:03d}", "family": name, "labels": labels_of(record, space)}
        for i, (name, record) in enumerate(zip(family, records, strict=True))
    ]
    classes = main_classes(records, kept)
    return Prompts(
        rows,
        np.asarray(family),
        np.asarray(group, np.int64),
        asked_findings(records, gallery.names),
        classes,
        class_frequency(classes, main_classes(kept, kept)),
        np.isin([ids(record) for record in records], [ids(kept[i]) for i in top]),
    )


def _only_repeated(gallery: Gallery, repeats: int) -> list[str]:
    """Classes that no image trained once has."""
    repeated = set(gallery.strata[gallery.copies >= repeats].tolist())
    return sorted(repeated - set(gallery.strata[gallery.copies < repeats].tolist()))


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

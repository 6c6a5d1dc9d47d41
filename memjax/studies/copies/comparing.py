"""Every comparison on generated and on background images, and the verdict of all of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.evaluate.dataset.survey import draw_rows
from memjax.evaluate.features.base import FeatureFn
from memjax.evaluate.features.published import PREPROCESSINGS
from memjax.evaluate.similarity.near_duplicates import components
from memjax.studies.copies import figures
from memjax.studies.copies.folders import ImageFolder
from memjax.studies.copies.patients import patients_of
from memjax.studies.copies.reading import (
    EDGE,
    Progress,
    ReadImages,
    blocks,
    kept_images,
    read_features,
)
from memjax.studies.copies.search import (
    Gallery,
    Match,
    gallery_of,
    nearest_by_features,
    nearest_by_pixels,
    unit_thumbnails,
)
from memjax.studies.store import Store

PIXELS = "pixels"
PIXELS_TITLE = f"Pixels ({EDGE}×{EDGE} thumbnails, small shifts undone, mirrored too)"
_BACKGROUND_DRAW = 2_000


class Comparison(NamedTuple):
    """One way of comparing, on generated and on background images."""

    name: str
    title: str
    generated: Match
    background: Match
    rule: figures.Rule


class Asked(NamedTuple):
    """What :func:`memjax.studies.copies.copies` was asked for, and where it keeps its parts."""

    folders: dict[str, ImageFolder]
    networks: dict[str, FeatureFn]
    patients: dict[str, str]
    seed: int
    store: Store
    progress: Progress


def has_contrast(read: ReadImages) -> np.ndarray:
    """Returns which rows are of more than one gray."""
    return np.ptp(read.thumbnails, axis=1) > 0


def images_of(read: ReadImages, rows: np.ndarray, store: Store) -> np.ndarray:
    """Returns the 64×64 pixels of some rows, which are in ascending order."""
    out, start = [], 0
    for images in kept_images(read, store):
        out.append(images[rows[(rows >= start) & (rows < start + len(images))] - start])
        start += len(images)
    return np.concatenate(out)


class Background(NamedTuple):
    """Real images that no copy is expected among, and which training images each may not meet."""

    kind: str  # "held_out" or "training"
    read: ReadImages
    rows: np.ndarray  # of ``read``
    images: np.ndarray
    groups: np.ndarray | None  # of each row
    of_training: np.ndarray | None  # of each training image
    left_out: int  # held-out images that stand in training too


def find_background(asked: Asked, read, owner, drawn, images, near) -> Background:
    """Returns the held-out images, or a draw of training images where there are none."""
    training = read["training"]
    held = read.get("held_out")
    if held is not None:
        fresh = np.flatnonzero(~np.isin(held.content, training.content))
        pixels = np.concatenate(list(kept_images(held, asked.store)))[fresh]
        who = patients_of(held, asked.patients)[fresh] if owner is not None else None
        left_out = len(held.number) - len(fresh)
        return Background("held_out", held, fresh, pixels, who, owner, left_out)
    some = draw_rows(len(drawn), _BACKGROUND_DRAW, asked.seed)
    rows = drawn[some]
    groups = _kin(training, owner, drawn, near)
    return Background("training", training, rows, images[some], groups[rows], groups, 0)


def _kin(training: ReadImages, owner, drawn, near) -> np.ndarray:
    """Numbers training images: equal for the same content, patient or near-duplicates."""
    count = len(training.number)
    pairs = [drawn[near.pairs], _same(training.content, np.arange(count))]
    if owner is not None:
        pairs.append(_same(owner, np.flatnonzero(owner != "")))
    return components(count, np.concatenate(pairs))


def _same(names: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pairs of each row and the first one of its name."""
    first: dict[Any, int] = {}
    pairs = [(first.setdefault(names[row], row), row) for row in rows.tolist()]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def compare(asked: Asked, read, owner, background: Background) -> tuple[Comparison, ...]:
    """Returns every comparison: by pixels, and by every network."""
    training, made = read["training"], read["generated"]
    total = 1 + len(asked.networks)
    gallery = gallery_of(
        unit_thumbnails(training.thumbnails), training.content, owner, training.thumbnails
    )
    exclude = _exclusion(background, gallery)
    back = nearest_by_pixels(
        gallery, background.read.thumbnails[background.rows], background.images, exclude
    )
    found = _searched(asked, made, gallery)
    out = [Comparison(PIXELS, PIXELS_TITLE, found, back, figures.fit_rule(back.calibrated, total))]
    for key, network in asked.networks.items():
        rows = {
            flag: read_features(network, key, feature_side(key), part, asked.store, asked.progress)
            for flag, part in read.items()
        }
        gallery = gallery_of(rows["training"], training.content, owner)
        held = rows["held_out" if background.kind == "held_out" else "training"]
        back = nearest_by_features(gallery, held[background.rows], exclude)
        found = nearest_by_features(gallery, rows["generated"])
        rule = figures.fit_rule(back.calibrated, total)
        out.append(Comparison(key, network.name, found, back, rule))
    return tuple(out)


def feature_side(key: str) -> int:
    """Returns the pixels at which images are read for a network: what it resizes them to."""
    known = PREPROCESSINGS.get(key.removesuffix("_large"))
    return known.side if known is not None else 224


def _exclusion(background: Background, gallery: Gallery):
    if background.groups is None or background.of_training is None:
        return None
    return background.groups, background.of_training[gallery.rows]


def _searched(asked: Asked, made: ReadImages, gallery: Gallery) -> Match:
    """Searches block by block; each block is kept."""
    parts, start = [], 0
    for part, images in zip(
        blocks(len(made.folder.places)), kept_images(made, asked.store), strict=True
    ):
        name, rows = f"search-{PIXELS}-{part.start:08d}", slice(start, start + len(images))
        kept = asked.store.read(name)
        if kept is None:
            found = nearest_by_pixels(gallery, made.thumbnails[rows], images)
            asked.store.keep(name, found._asdict())
        else:
            found = Match(**kept[1])
        parts.append(found)
        start = rows.stop
        asked.progress("searching", start, len(made.number))
    return Match(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def nearly_same(comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which generated and which background images are far nearer than a copy must be."""
    limits = [c.rule.threshold / figures.NEARLY_SAME for c in comparisons]
    sides = ("generated", "background")
    generated, background = (
        np.stack(
            [
                getattr(c, side).calibrated <= limit
                for c, limit in zip(comparisons, limits, strict=True)
            ]
        ).any(axis=0)
        for side in sides
    )
    return np.asarray(generated), np.asarray(background)


def verdicts(comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which images are copies by any comparison, and which one is nearest to its limit."""
    ratio = np.stack([c.generated.calibrated / max(c.rule.threshold, 1e-12) for c in comparisons])
    return np.asarray((ratio <= 1).any(axis=0)), np.asarray(ratio.argmin(axis=0))

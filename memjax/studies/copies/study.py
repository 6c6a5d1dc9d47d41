"""Which generated images copy a training image: any generator's images, no model needed."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from memjax.data.images import READING
from memjax.evaluate.dataset.survey import draw_rows
from memjax.evaluate.features.base import FeatureFn
from memjax.studies.copies import figures
from memjax.studies.copies.comparing import (
    Asked,
    Background,
    Comparison,
    compare,
    feature_side,
    find_background,
    has_contrast,
    images_of,
    nearly_same,
    verdicts,
)
from memjax.studies.copies.folders import check_apart, image_folder
from memjax.studies.copies.notes import files_read, notes
from memjax.studies.copies.patients import patients_of, read_patients
from memjax.studies.copies.reading import (
    EDGE,
    RULE,
    Progress,
    ReadImages,
    kept_images,
    read_features,
    read_images,
)
from memjax.studies.published import feature_fn
from memjax.studies.store import Store, text_digest

_FORMAT = 1


class Copies(NamedTuple):
    """What was found.

    Attributes:
        generated: The generated images that could be read.
        training: The training images that could be read.
        comparisons: By pixels, and by every network that was given.
        is_copy: ``[q]``, whether each generated image is a copy by any comparison.
        exact: ``[q]``, whether it equals a training image at 64 pixels.
        nearly_same: ``[q]``, whether it is three times nearer to one than a copy must be.
        chosen: ``[q]``, which comparison's training image is shown for it.
        index: ``[q]``, that training image's row.
        copied: Training images that came back.
        owner: Patient of each training image; None without a table.
        times: How often each training image's content stands in the training set.
        summary: JSON-able figures.
    """

    generated: ReadImages
    training: ReadImages
    comparisons: tuple[Comparison, ...]
    is_copy: Bool[np.ndarray, " q"]
    exact: Bool[np.ndarray, " q"]
    nearly_same: Bool[np.ndarray, " q"]
    chosen: Int[np.ndarray, " q"]
    index: Int[np.ndarray, " q"]  # type: ignore[assignment]  # hides tuple.index, on purpose
    copied: list[figures.CopiedImage]
    owner: np.ndarray | None
    times: Int[np.ndarray, " n"]
    summary: dict[str, Any]

    def certainty(self, row: int) -> str:
        """Returns how sure it is that a generated image is a copy, "" where it is none."""
        if not self.is_copy[row]:
            return ""
        if self.exact[row]:
            return "same pixels"
        return "nearly the same" if self.nearly_same[row] else "alike"

    def chosen_values(self, field: str) -> np.ndarray:
        """Returns a field of :class:`Match` of the comparison that is shown for each image."""
        table = np.stack([getattr(c.generated, field) for c in self.comparisons])
        return table[self.chosen, np.arange(table.shape[1])]


def copies(
    generated: str | os.PathLike[str],
    training: str | os.PathLike[str],
    held_out: str | os.PathLike[str] | None = None,
    *,
    patients: str | None = None,
    features: Sequence[str] = (),
    keep: str | os.PathLike[str] | None = None,
    restart: bool = False,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Copies:
    """Finds the generated images that copy a training image.

    An image is a copy where its calibrated distance to its nearest training image,
    ``d₁ / (½ mean of the 50 nearest)``, is at most 1, or at most what 1 % of the background
    reaches, whichever is less; with networks, where it is by any comparison.

    Args:
        generated: Folder of generated images.
        training: Folder of the images that the generator was trained on.
        held_out: Folder of like images that it was not trained on: the background. None: training
            images, each against the others.
        patients: CSV table of patients by file name, or None.
        features: ``NAME=PATH`` of published networks' weights, see
            :mod:`memjax.studies.published`.
        keep: Folder in which parts are kept, so that a stopped call goes on; None keeps nothing.
        restart: Discard what is kept.
        seed: Of draws.
        progress: Told ``(what, done, total)``.

    Returns:
        What was found; the same for the same files.

    Raises:
        ValueError: A folder is missing, empty or the same as another; a table or weights cannot
            be read; what is kept is of another call.

    References:
        Carlini et al., arXiv 2301.13188, section 5.1 (calibrated distance); Yoon et al., ICML 2023
        SPIGM workshop (a third of the second nearest).
    """
    given: dict[str, Any] = {"generated": generated, "training": training}
    given |= {"held_out": held_out} if held_out else {}
    check_apart(list(given.items()))
    folders = {flag: image_folder(flag, root) for flag, root in given.items()}
    named = read_patients(patients) if patients else {}
    networks = _networks(features)
    place = Path(keep) if keep is not None else Path(tempfile.mkdtemp(prefix="memjax-copies-"))
    store = Store(place, _job(folders, named, features, seed))
    try:
        with store.held():
            store.check(restart)
            store.start()
            return _found(Asked(folders, networks, named, seed, store, progress))
    finally:
        if keep is None:
            shutil.rmtree(place, ignore_errors=True)


def _networks(features: Sequence[str]) -> dict[str, FeatureFn]:
    found: dict[str, FeatureFn] = {}
    for entry in features:
        name, _, path = entry.partition("=")
        if not path:
            raise ValueError(f"{entry!r} is not NAME=PATH: write for example sscd=weights.pt.")
        if name in found:
            raise ValueError(f"features names {name!r} twice, expected each once: leave one out.")
        found[name] = feature_fn(name, path)
    return found


def _job(folders, named, features, seed) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "reading": READING,
        **{flag: folder.root for flag, folder in folders.items()},
        "files": {
            flag: text_digest([folder.places, folder.sizes]) for flag, folder in folders.items()
        },
        "patients": text_digest(named),
        "features": list(features),
        "seed": seed,
    }


def _found(asked: Asked) -> Copies:
    start = time.perf_counter()
    read = {
        flag: read_images(folder, asked.store, asked.progress)
        for flag, folder in asked.folders.items()
    }
    training, made = read["training"], read["generated"]
    owner = patients_of(training, asked.patients) if asked.patients else None
    drawn = draw_rows(len(training.number), figures.DRAWN, asked.seed)
    images = images_of(training, drawn, asked.store)
    places = [training.place(row) for row in range(len(training.number))]
    asked.progress("near-duplicates in training", 0, 1)
    duplicates, near = figures.duplicate_figures(images, drawn, training.content, places)
    background = find_background(asked, read, owner, drawn, images, near)
    comparisons = compare(asked, read, owner, background)
    is_copy, chosen = verdicts(comparisons)
    exact = np.isin(made.content, training.content) & has_contrast(made)
    index = np.stack([c.generated.index for c in comparisons])[chosen, np.arange(len(chosen))]
    least = np.stack([c.generated.calibrated for c in comparisons])
    copied = figures.copied_images(is_copy, index, least[chosen, np.arange(len(chosen))])
    _, group, count = np.unique(training.content, return_inverse=True, return_counts=True)
    found = Copies(
        made, training, comparisons, is_copy, exact, nearly_same(comparisons)[0] | exact, chosen,
        index, copied, owner, count[group.ravel()], {},
    )  # fmt: skip
    summary = _summary(asked, read, found, background)
    summary |= {"duplicates": duplicates}
    summary |= {"ladder": _ladder(asked, read, owner, background, summary["notes"])}
    summary |= {"distribution": _distribution(asked, read, background)}
    summary["seconds"] = time.perf_counter() - start
    return found._replace(summary=summary)


def _summary(asked: Asked, read, found: Copies, background: Background) -> dict[str, Any]:
    training = found.training
    enough = len(np.unique(training.content)) >= figures.MIN_TRAINING
    least = figures.MIN_GENERATED if enough else len(found.is_copy) + 1
    wrong = [c.background.calibrated <= c.rule.threshold for c in found.comparisons]
    false = np.asarray(np.stack(wrong).any(axis=0))
    known = np.isfinite(found.comparisons[0].background.calibrated)
    copied = figures.rate(found.is_copy, least)
    near = {
        "num": int(found.nearly_same.sum()),
        "exact": int(found.exact.sum()),
        "background": int(nearly_same(found.comparisons)[1][known].sum()),
    }
    chance = figures.rate(false[known], figures.MIN_GENERATED if enough else len(known) + 1)
    owner = found.owner
    who = [] if owner is None else [owner[c.row] for c in found.copied if owner[c.row]]
    return {
        "verdict": figures.verdict(copied, chance, near),
        "nearly_same": near,
        "copies": copied | {"exact": int(found.exact.sum())},
        "background": chance | {"kind": background.kind, "left_out": background.left_out},
        "copied_images": {"num": len(found.copied), "of": len(np.unique(training.content))},
        "copied_patients": None
        if owner is None
        else {"num": len(set(who)), "of": len({o for o in owner.tolist() if o})},
        "shares": figures.patient_figures(found.is_copy, found.index, owner, len(training.number)),
        "comparisons": [
            {
                "name": c.name,
                "title": c.title,
                "threshold": c.rule.threshold,
                "fitted": c.rule.fitted,
                "rules": figures.rule_rows(c.generated, c.background, c.rule, least),
            }
            for c in found.comparisons
        ],
        "minimum": {
            "generated": figures.MIN_GENERATED,
            "training": figures.MIN_TRAINING,
            "background": figures.MIN_BACKGROUND,
        },
        "files": {flag: files_read(part, asked.folders[flag]) for flag, part in read.items()},
        "reading": RULE,
        "notes": notes(read, owner, background),
        "seed": asked.seed,
    }


def _ladder(
    asked: Asked, read, owner, background: Background, notes: list[str]
) -> list[dict[str, Any]]:
    training, made = read["training"], read["generated"]
    sizes = len(training.number), len(made.number)
    if background.kind != "held_out" or not len(background.rows):
        notes.append("The likeness ladder needs held-out images and was left out.")
        return []
    if len(set(training.content.tolist())) < figures.MIN_TRAINING:
        return []
    if not figures.ladder_fits(sizes[0], sizes[1] + len(background.rows)):
        notes.append("The likeness ladder compares every pair and was left out: too many images.")
        return []
    asked.progress("likeness ladder", 0, 1)
    _, first = np.unique(training.content, return_index=True)
    first = np.sort(first)
    kept = [np.concatenate(list(kept_images(p, asked.store))) for p in (training, made)]
    who = None if owner is None else owner[first]
    return figures.ladder_figures(
        kept[0][first], kept[1], background.images, (who, background.groups)
    )


def _distribution(
    asked: Asked, read: Mapping[str, ReadImages], background: Background
) -> list[dict[str, Any]]:
    least = min(len(read[flag].number) for flag in ("training", "generated"))
    if min(least, len(background.rows)) < figures.MIN_GENERATED:
        return []
    asked.progress("distributions", 0, 1)
    fresh = background.rows if background.kind == "held_out" else None  # not in training too
    held = None if fresh is None else read["held_out"].thumbnails[fresh]
    title = f"{EDGE}×{EDGE} gray thumbnails"
    out = [
        figures.distribution_figures(
            title, read["training"].thumbnails, read["generated"].thumbnails, held, asked.seed
        )
    ]
    for key, network in asked.networks.items():
        rows = {
            flag: read_features(network, key, feature_side(key), part, asked.store, asked.progress)
            for flag, part in read.items()
        }
        held = None if fresh is None else rows["held_out"][fresh]
        out.append(
            figures.distribution_figures(
                network.name, rows["training"], rows["generated"], held, asked.seed
            )
        )
    return out

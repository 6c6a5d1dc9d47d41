"""The training images that extracted ones are compared with: a folder, or the run's own data."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.data.dataset import load_images
from memjax.data.images import Square
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import check_images
from memjax.data.records import Record, image_record
from memjax.evaluate.similarity.copy_rules import SimilarityResult, copy_report
from memjax.evaluate.similarity.resolution import reduced
from memjax.runs.model import Model
from memjax.studies.copies.folders import image_folder
from memjax.studies.gallery import as_told, from_fine_tuning, read_gallery, read_images
from memjax.studies.prompts.captions import caption_candidates, caption_gallery
from memjax.studies.prompts.draw import Candidates, Gallery, label_candidates
from memjax.studies.study import NEIGHBOURS
from memjax.studies.subjects.base import places
from memjax.studies.subjects.captions import image_side

SIDE = 64  # short side in pixels at which images are compared with training images
_LEAST = 2


class Real(NamedTuple):
    """Training images without exact duplicates, and what real images reach.

    Attributes:
        gallery: The images, how often each stands in training, and whose they are.
        names: File of each training image.
        held_out: Records of held-out images.
        records: Record of each training image; of a folder nothing is told of them.
        compared: Training images at :data:`SIDE` pixels.
        background: Copy rules on held-out images; None where there are none.
        words: JSON-able: what was read, and what could not be.
    """

    gallery: Gallery
    names: list[str]
    held_out: list[Record]
    records: list[Record]
    compared: np.ndarray
    background: SimilarityResult | None
    words: dict[str, Any]


def own_data(model: Model) -> bool:
    """Returns whether a model says what it was trained on."""
    return model.run is not None or bool(model.record.get("config"))


def read_real(model: Model, training: str = "", held_out: str = "") -> Real:
    """Reads the training images, and held-out ones where there are some.

    Args:
        model: The opened model; its images decide the size.
        training: Folder of images; "" for the run's own data.
        held_out: Folder of like images that were not trained on; "" for none, or the run's own.

    Raises:
        ValueError: If a folder is missing or holds no image, fewer than two different training
            images are left, or the run's data are not there any more.
    """
    if training:
        return _from_folders(model, training, held_out)
    if model.run is not None:
        gallery, kept, held = read_images(model)
        return made_real(gallery, kept, held, {"source": "the run's own data"})
    data = from_fine_tuning(model)
    gallery, kept, _ = read_gallery(data, image_side(model))
    return made_real(gallery, kept, list(data.held), {"source": "the run's own data", **data.words})


def _from_folders(model: Model, training: str, held_out: str) -> Real:
    words: dict[str, Any] = {"source": "a folder"}
    records: dict[str, list[Record]] = {"training": [], "held_out": []}
    for flag, root in (("training", training), ("held_out", held_out)):
        if not root:
            continue
        folder = image_folder(flag, root)
        found = [image_record(folder.path(i), place) for i, place in enumerate(folder.places)]
        records[flag], problems = check_images(found)
        words[flag] = {"folder": folder.name, "read": len(records[flag])}
        words[flag] |= {"left_out": _left_out(problems, folder.wrong)}
    text, data = model.pipeline is not None, model.config.get("data", {})
    edge, channels = (image_side(model), 3) if text else (data["size"], data["channels"])
    square: Square = "crop" if text else data["square"]
    images = [
        load_images(of, size=edge, channels=channels, square=square)
        for of in records.values()
        if of
    ]
    held = images[1] if records["held_out"] else images[0][:0]
    gallery, kept = caption_gallery(records["training"], images[0], records["held_out"], held)
    return made_real(gallery, kept, records["held_out"], words)


def _left_out(problems: Problems, wrong: dict[str, str]) -> dict[str, Any]:
    return {"corrupt": problems.counts.get("corrupt image", 0), "other": len(wrong)}


def made_real(
    gallery: Gallery, kept: Sequence[Record], held: list[Record], words: dict[str, Any]
) -> Real:
    """Returns a gallery with what its held-out images reach.

    Raises:
        ValueError: If fewer than two different training images are left.
    """
    if len(gallery.train) < _LEAST:
        raise ValueError(
            f"{len(gallery.train)} different training picture was found, expected at least "
            f"{_LEAST}: add pictures."
        )
    compared = reduced(gallery.train, SIDE)
    background = None
    if len(gallery.held_out):
        background = copy_report(
            reduced(gallery.held_out, SIDE),
            compared,
            patients=gallery.patients,
            query_patients=gallery.held_patients,
            n=min(NEIGHBOURS, len(compared)),
        )
    words = {**words, "different": len(compared), "images": int(gallery.copies.sum())}
    return Real(gallery, places(kept), held, list(kept), compared, background, words)


def training_prompts(model: Model, real: Real, most: int, seed: int) -> Candidates:
    """Returns the run's different training prompts, at most so many.

    Raises:
        ValueError: If nothing is known of what the training images were called.
    """
    if model.run is not None:
        told = as_told(model, real.records)
        return label_candidates(real.gallery, told, [], model.label_space, most=most, seed=seed)
    return caption_candidates(real.gallery, real.records, [], most=most, seed=seed)

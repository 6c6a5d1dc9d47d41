"""What was read of each folder, and what a reader of the figures has to know."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax.studies.copies import figures
from memjax.studies.copies.comparing import Background, has_contrast
from memjax.studies.copies.folders import ImageFolder
from memjax.studies.copies.reading import ReadImages
from memjax.studies.copies.search import SHIFT


def files_read(read: ReadImages, folder: ImageFolder) -> dict[str, Any]:
    """Returns how many images a folder holds, what was read of it and what was left out."""
    return {
        "folder": folder.name,
        "found": len(folder.places),
        "read": len(read.number),
        "unreadable": read.problems,
        "of_other_kinds": {"num": len(folder.unread), "examples": list(folder.unread[:5])},
        "changed": read.notes,
        "shapes": dict(list(read.shapes.items())[:8]),
        "num_shapes": len(read.shapes),
    }


def notes(
    read: Mapping[str, ReadImages], owner: np.ndarray | None, background: Background
) -> list[str]:
    """Returns what a reader has to know about the comparison."""
    said = []
    if background.kind == "training":
        said.append(
            "No held-out images were given: the background is training images, each against the "
            "others without its own patient, repeats and near-duplicates. Images that were never "
            "trained on may lie farther away; --held_out makes it a fair comparison."
        )
    if background.left_out:
        said.append(
            f"{background.left_out} held-out images stand in the training set too and were left "
            "out of the background."
        )
    size = len(background.rows)
    if size < figures.MIN_BACKGROUND:
        said.append(
            f"The background has {size} images, fewer than {figures.MIN_BACKGROUND}: that at most "
            "1 % of real images would count as copies could not be checked."
        )
    for flag, part in read.items():
        blank = int((~has_contrast(part)).sum())
        if blank:
            said.append(f"{blank} {flag} images are of one gray and are like nothing.")
    if owner is not None:
        unknown = int((owner == "").sum())
        if unknown:
            said.append(f"The table names no patient for {unknown} training images.")
    shift = f"±{SHIFT}/64 of the side"
    said.append(
        f"Pixels find exact, recompressed, brightened, mirrored and slightly shifted copies "
        f"({shift}); what is turned, cropped or redrawn needs a network such as --sscd=FILE."
    )
    return said

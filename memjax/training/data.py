"""The data of a run: phantoms are drawn if missing, folders are read and checked."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from memjax.data.chexpert import Problems, check_images, patient_split, read_chexpert
from memjax.data.dataset import encode_records, load_images
from memjax.data.duplication import duplicate_weights
from memjax.data.images import Square
from memjax.data.phantoms import write_phantoms
from memjax.data.pipeline import ImageFiles, make_batches
from memjax.data.records import (
    FINDINGS,
    Batch,
    LabelSpace,
    Record,
    chexpert_label_space,
    marker_vocabulary,
)

logger = logging.getLogger(__name__)
KINDS = ("phantoms", "chexpert")


class RunData(NamedTuple):
    """Training and held-out records, with the label space they share.

    Attributes:
        train: Training records, in the table's order.
        held_out: Records of other patients, never trained on.
        label_space: Slots and values of the condition.
        problems: What was wrong with the data.
        root: Where the data lies.
    """

    train: list[Record]
    held_out: list[Record]
    label_space: LabelSpace
    problems: Problems
    root: Path


def prepare_data(
    workdir: Path,
    *,
    kind: str,
    root: str,
    phantoms: Mapping[str, Any],
    frontal_only: bool,
    strict: bool,
    check: bool,
    held_out_fraction: float,
    findings: Sequence[str],
    num_markers: int,
    age_bin: int,
    use_view: bool,
    use_sex: bool,
    use_age: bool,
    seed: int,
    **_: Any,
) -> RunData:
    """Reads (for phantoms: first draws) the data and builds the label space.

    Held-out pictures are ``valid.csv``'s, or, with ``held_out_fraction`` above 0, that share of
    the training table's patients as well.

    Raises:
        ValueError: If there is nothing to read, or with ``strict`` anything is wrong with it.
    """
    if kind not in KINDS:
        raise ValueError(f"data.kind is {kind!r}, expected one of {KINDS}.")
    if kind == "chexpert" and not root:
        raise ValueError(
            "data.root is empty, expected the folder that holds train.csv: pass "
            "--config.data.root=/data/CheXpert-v1.0-small."
        )
    folder = Path(root) if root else workdir / "data" / "CheXpert-v1.0-small"
    if kind == "phantoms":
        write_phantoms(folder, **phantoms)
    train, problems = read_chexpert(folder, "train", frontal_only=frontal_only)
    train, held_out = patient_split(train, held_out_fraction, seed)
    if (folder / "valid.csv").is_file():
        valid, wrong = read_chexpert(folder, "valid", frontal_only=frontal_only)
        problems.merge(wrong)
        held_out = [*held_out, *valid]
    if check:
        train, wrong = check_images(train)
        held_out, wrong_held = check_images(held_out)
        problems.merge(wrong)
        problems.merge(wrong_held)
    if strict:
        problems.refuse()
    if problems:
        logger.warning("Data problems, left out or mended: %s", problems.summary())
    vocabulary = marker_vocabulary([*train, *held_out])[:num_markers]
    space = chexpert_label_space(
        tuple(findings) or FINDINGS,
        num_markers=len(vocabulary),
        marker_vocabulary=vocabulary,
        age_bin=age_bin,
        view=use_view,
        sex=use_sex,
        age=use_age,
    )
    return RunData(train, held_out, space, problems, folder)


def load_pictures(
    records: Sequence[Record], *, size: int, channels: int, square: Square, in_memory_rows: int
) -> UInt8[np.ndarray, "n h w c"] | ImageFiles:
    """Returns the pictures in memory, or a source that decodes on read if there are too many."""
    if len(records) <= in_memory_rows:
        return load_images(records, size=size, channels=channels, square=square)
    return ImageFiles(records, size=size, channels=channels, square=square)


def batches_of(
    data: RunData,
    *,
    size: int,
    channels: int,
    square: Square,
    in_memory_rows: int,
    batch_size: int,
    seed: int,
    num_workers: int,
    duplicate_fraction: float,
    duplicate_factor: float,
    on_corrupt: Literal["error", "skip"],
    **_: Any,
) -> Callable[[int], Iterator[Batch]]:
    """Returns ``step → endless batches from that step on``; the order depends on seed and step.

    ``duplicate_fraction`` > 0 draws that share of rows ``duplicate_factor`` times as often
    (Somepalli et al. 2023, the sampling weights of arXiv 2305.20086).
    """
    pictures = load_pictures(
        data.train, size=size, channels=channels, square=square, in_memory_rows=in_memory_rows
    )
    labels = encode_records(data.train, data.label_space)
    weights = None
    if duplicate_fraction > 0:
        weights = duplicate_weights(seed, len(labels), duplicate_fraction, duplicate_factor)

    def batches_from(step: int) -> Iterator[Batch]:
        return make_batches(
            pictures,
            labels,
            batch_size=batch_size,
            seed=seed,
            start_step=step,
            weights=weights,
            num_workers=num_workers,
            on_corrupt=on_corrupt,
        )

    return batches_from

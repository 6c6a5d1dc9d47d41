"""The data of a run: phantoms are drawn if missing, everything else is read and checked."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from memjax.data.augmentation import Augmentation
from memjax.data.dataset import encode_records, load_images
from memjax.data.duplication import duplicate_weights
from memjax.data.images import Square
from memjax.data.labels.of_data import label_space_of
from memjax.data.labels.uncertainty import apply_policies, keep_rows, parse_policies, resample_table
from memjax.data.pipeline import ImageFiles, Places, make_batches
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import check_images
from memjax.data.readers.kinds import READERS, read_kind
from memjax.data.records import Batch, LabelSpace, Record

logger = logging.getLogger(__name__)
KINDS = tuple(READERS)
_DEFAULTS: Mapping[str, Any] = {
    "class_fields": (),
    "max_words": 16,
    "vocabulary_size": 2000,
    "tfds_name": "",
    "tfds_dir": "",
    "digits": {},
    "scenes": {},
}


class RunData(NamedTuple):
    """Training and held-out records, with the label space they share.

    Attributes:
        train: Training records, in the table's order.
        held_out: Records of other patients, never trained on.
        label_space: Slots and values of the condition.
        problems: What was wrong with the data.
        root: Where the data lies, a folder or ``gs://…``.
    """

    train: list[Record]
    held_out: list[Record]
    label_space: LabelSpace
    problems: Problems
    root: str


def prepare_data(
    workdir: Path,
    *,
    kind: str,
    strict: bool,
    check: bool,
    uncertainty: str | Mapping[str, str] = "multiclass",
    rows_with: Sequence[str] = (),
    **settings: Any,
) -> RunData:
    """Reads (for phantoms: first draws) the data and builds the label space.

    Held-out images are the data's own validation part, or, with ``held_out_fraction`` above 0,
    that share of the training part's patients as well.

    Args:
        workdir: Folder of the run.
        kind: One of :data:`KINDS`.
        strict: Refuse data with any problem.
        check: Decode every image.
        uncertainty: What uncertain labels mean, see :mod:`memjax.data.labels.uncertainty`; a
            policy for all findings, a policy per finding, or that as JSON text.
        rows_with: Keep rows that are positive for one of these findings; none keeps all.
        **settings: The other fields of a configuration's ``data`` section, and ``seed``.

    Raises:
        ValueError: If there is nothing to read, or with ``strict`` anything is wrong with it.
    """
    policies = policies_of(uncertainty)
    settings = {**_DEFAULTS, **settings}
    train, held_out, problems, root = read_kind(workdir, kind, settings)
    train = keep_rows(apply_policies(train, policies), rows_with)
    held_out = apply_policies(held_out, policies)
    if held_out and rows_with:
        held_out = keep_rows(held_out, rows_with)
    if check:
        train, wrong = check_images(train)
        held_out, wrong_held = check_images(held_out)
        problems.merge(wrong)
        problems.merge(wrong_held)
    if strict:
        problems.refuse()
    if problems:
        logger.warning("Data problems, left out or mended: %s", problems.summary())
    if problems.notes:
        logger.info("Images as they were read: %s.", problems.noted())
    if problems.unread:
        logger.info("Beside the images, not read: %s.", problems.passed_over())
    if not train:
        raise ValueError(f"no training image of {root} can be decoded. {problems.summary()}")
    space = label_space_of(train, kind, settings, held_out)
    return RunData(train, held_out, space, problems, root)


def policies_of(uncertainty: str | Mapping[str, str]) -> dict[str, Any]:
    """Returns the policy of every finding; text that begins with a brace is JSON.

    Raises:
        ValueError: If it is no JSON, or names an unknown policy or finding.
    """
    if isinstance(uncertainty, str) and uncertainty.lstrip().startswith("{"):
        try:
            return parse_policies(json.loads(uncertainty))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"data.uncertainty is {uncertainty!r}, which is no JSON ({error.msg}): write one "
                'policy, or {"Edema": "ones", "*": "ignore"}.'
            ) from error
    return parse_policies(uncertainty)


def load_pictures(
    records: Sequence[Record], *, size: int, channels: int, square: Square, in_memory_rows: int
) -> UInt8[np.ndarray, "n h w c"] | ImageFiles:
    """Returns the images in memory, or a source that decodes on read if there are too many."""
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
    uncertainty: str | Mapping[str, str] = "multiclass",
    augment: Mapping[str, Any] | None = None,
    positions: Places | None = None,
    **_: Any,
) -> Callable[[int], Iterator[Batch]]:
    """Returns ``step → endless batches from that step on``; the order depends on seed and step.

    ``positions`` are the places of each batch that this process needs; None: all.

    ``duplicate_fraction`` > 0 draws that share of rows ``duplicate_factor`` times as often
    (Somepalli et al. 2023, the sampling weights of arXiv 2305.20086). ``augment`` are fields of
    :class:`Augmentation`.
    """
    pictures = load_pictures(
        data.train, size=size, channels=channels, square=square, in_memory_rows=in_memory_rows
    )
    labels = encode_records(data.train, data.label_space)
    resample = resample_table(data.train, data.label_space, policies_of(uncertainty))
    moved = Augmentation(**(augment or {})) or None
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
            augment=moved,
            on_corrupt=on_corrupt,
            resample=resample,
            positions=positions,
        )

    return batches_from

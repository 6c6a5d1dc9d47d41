"""The real images behind an audit: a run's own, a captioned folder, or prompts that name them."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from memjax.data.dataset import load_images
from memjax.data.duplication import duplicate_weights
from memjax.data.images import load_image
from memjax.data.labels.uncertainty import likeliest
from memjax.data.readers.chexpert import check_images
from memjax.data.readers.folder import read_folder
from memjax.data.records import Record, image_record
from memjax.runs.model import Model
from memjax.runs.prompts import read_prompts
from memjax.runs.references import reference_paths
from memjax.runs.train import data_of, planted_of
from memjax.studies.prompts.captions import caption_gallery
from memjax.studies.prompts.draw import Gallery, PromptCounts, Prompts, choose_prompts, make_gallery
from memjax.training.data import policies_of
from memjax.training.run import Run

_MOST_IMAGES = 20_000  # of a run's, on each side
_MOST_BYTES = 1 << 30  # of the gallery's images in memory
_LEAST = 2


class Captioned(NamedTuple):
    """Real images with captions.

    Attributes:
        train: Training records; a repeated image stands once, ``repeats`` says how often.
        held: Records of images that were not trained on.
        memorized: Which of ``train`` are memorized; None: those that are repeated.
        source: How memorized prompts are known, in a few words.
        words: What the data are, for the report's provenance.
    """

    train: list[Record]
    held: list[Record]
    memorized: Bool[np.ndarray, " n"] | None
    source: str
    words: dict[str, Any]


def from_folder(data: str, held_out: str, *, fraction: float = 0.0, seed: int = 0) -> Captioned:
    """Reads a captioned folder: exact copies and the field ``repeats`` mark what was repeated.

    Args:
        data: Folder of the training images; its sub-folders ``valid`` or ``test`` are held out.
        held_out: Folder of images that were not trained on, or "".
        fraction: Share held out by content, where the training held out the same.
        seed: Of that share.

    Raises:
        ValueError: If nothing is held out or no image has a caption.
    """
    train, held, problems = read_folder(data, held_out_fraction=fraction, seed=seed)
    if held_out:
        others = read_folder(held_out)
        held = [*held, *others[0], *others[1]]
    if not held:
        raise ValueError(
            f"--data={data} holds no images that were not trained on, which say what counts as a "
            "copy by chance: put some with captions into its sub-folder valid, or give "
            "--held_out=FOLDER."
        )
    bare = [record.path for record in [*train, *held] if not record.caption]
    if bare:
        raise ValueError(
            f"{Path(bare[0]).name} in --data={data} has no caption: put one into a .txt file "
            "beside it, or into metadata.jsonl."
        )
    words = {
        "root": Path(data).name,
        "train": len(train),
        "held_out": len(held),
        "problems": problems.counts,
    }
    return Captioned(_together(train), held, None, "repeated in training", words)


def _together(records: Sequence[Record]) -> list[Record]:
    """One record a file: a list that names a file often says the same as ``repeats``."""
    times: collections.Counter[str] = collections.Counter()
    for record in records:
        times[record.path] += record.repeats
    first = {record.path: record for record in reversed(records)}
    return [first[path]._replace(repeats=count) for path, count in times.items()]


def from_prompts(prompts: str, negatives: str) -> Captioned:
    """Reads prompts said to be memorized and ordinary ones, with their images.

    A negative whose ``family`` is ``once`` was trained on once; all others are held out.

    Raises:
        ValueError: If a memorized prompt has no image, or no negative has one.
    """
    rows, others = read_prompts(prompts), read_prompts(negatives)
    own = _records(rows, prompts)
    bare = [row["id"] for row, found in zip(rows, own, strict=True) if not found]
    if bare:
        raise ValueError(
            f"prompt {bare[0]!r} of {prompts} names no training image: an audit compares with "
            "it, write its path into the field 'image'."
        )
    told = _records(others, negatives)
    once = [str(row.get("family")) == "once" for row in others]
    shown_once = [r for found, yes in zip(told, once, strict=True) if yes for r in found]
    held = [r for found, yes in zip(told, once, strict=True) if not yes for r in found]
    if not held:
        raise ValueError(
            f"no prompt of {negatives} names an image that was not trained on, which say what "
            "counts as a copy by chance: write paths into the field 'image'."
        )
    memorized = [record for found in own for record in found[:1]]
    extra = [record for found in own for record in found[1:]]
    flags = [True] * len(memorized) + [False] * (len(shown_once) + len(extra))
    words = {"prompts": len(rows), "negatives": len(others)}
    train = [*memorized, *(r._replace(caption="") for r in extra), *shown_once]
    return Captioned(train, held, np.asarray(flags), "named in --prompts", words)


def _records(rows: Sequence[Mapping[str, Any]], file: str) -> list[list[Record]]:
    """Every row's images as records; a row without a caption is refused."""
    paths = reference_paths(rows, file)
    for row in rows:
        if not row.get("caption"):
            raise ValueError(
                f"prompt {row['id']!r} of {file} has no caption: a text model needs one."
            )
    return [
        [
            image_record(
                str(path), f"{row['id']}-{k}", caption=" ".join(str(row["caption"]).split())
            )
            for k, path in enumerate(found)
        ]
        for row, found in zip(rows, paths, strict=True)
    ]


def from_fine_tuning(model: Model) -> Captioned:
    """Reads the data of a fine-tuned run again, and what it repeated.

    Raises:
        ValueError: If the model is no fine-tuned run, or its data are not there any more.
    """
    config = model.record.get("config")
    if not config:
        raise ValueError(
            f"{model.name} does not say what it was trained on: give --data=FOLDER, or "
            "--prompts=FILE and --negatives=FILE with images in the field 'image'."
        )
    data = data_of({**config, "data": {**config["data"], "check": False}}, model.path)
    planted = planted_of(config, data)
    weights = planted.weights
    times = np.asarray(planted.repeats) if weights is None else np.rint(weights)
    rows = [r._replace(repeats=int(t)) for r, t in zip(data.train, times, strict=True)]
    train = [row for row in rows if row.repeats > 0]
    held = [*data.held_out, *(row for row in rows if row.repeats == 0)]
    if not held:
        raise ValueError(
            f"{model.name} was fine-tuned with nothing held out, which says what counts as a copy "
            "by chance: give --data=FOLDER with a sub-folder valid."
        )
    words = {"root": Path(data.root).name, "train": len(train), "held_out": len(held)}
    return Captioned(_together(train), held, None, "repeated in training", words)


def read_gallery(
    data: Captioned, side: int, channels: int = 3
) -> tuple[Gallery, list[Record], Bool[np.ndarray, " n"] | None]:
    """Loads the images, repeated ones first where not all fit into a gibibyte.

    Returns:
        The gallery, the record of each row, and which rows are memorized (None: the repeated).

    Raises:
        ValueError: If fewer than two different training images are left, or one cannot be read.
    """
    most = max(_MOST_BYTES // (side * side * channels * 2), _LEAST)
    marked = data.memorized if data.memorized is not None else np.zeros(len(data.train), bool)
    weight = [-(r.repeats + 10**9 * bool(m)) for r, m in zip(data.train, marked, strict=True)]
    rows = np.sort(np.argsort(weight, kind="stable")[:most])
    train, held = [data.train[i] for i in rows], data.held[:most]
    images, others = (
        np.stack([load_image(r.path, side, channels) for r in part]) for part in (train, held)
    )
    gallery, kept = caption_gallery(train, images, held, others)
    if len(kept) < _LEAST:
        raise ValueError(
            f"{len(kept)} different training image was found, expected at least {_LEAST}: add "
            "pictures."
        )
    if data.memorized is None:
        return gallery, kept, None
    names = {train[i].patient for i in np.flatnonzero(marked[rows])}
    return gallery, kept, np.asarray([record.patient in names for record in kept])


def read_images(
    run: Run | Model, seed: int | None = None
) -> tuple[Gallery, list[Record], list[Record]]:
    """Reads the run's data again: the gallery, the record of each training row, held-out records.

    What was held out is what the run's own seed held out. Rows that training draws more often
    (``data.duplicate_fraction``) count as so many copies.

    Args:
        run: The run.
        seed: Of the sample where there are more than 20,000 images; None: the run's.

    Raises:
        ValueError: If nothing was held out.
    """
    config = run.config
    seed = config["seed"] if seed is None else seed
    weighted = config["data"]["duplicate_fraction"] > 0  # by the number of rows that decode
    check = config["data"]["check"] and weighted
    data = data_of({**config, "data": {**config["data"], "check": check}}, run.path)
    shape = {name: config["data"][name] for name in ("size", "channels", "square")}
    train, _ = check_images(_some(_with_repeats(data.train, config), seed))
    held, _ = check_images(_some(data.held_out, seed))
    if not held:
        raise ValueError(
            "there are no held-out images to compare with: give the data a valid.csv or set "
            "data.held_out_fraction above 0."
        )
    gallery, kept = make_gallery(
        train, load_images(train, **shape), held, load_images(held, **shape)
    )
    return gallery, kept, held


def _with_repeats(records: Sequence[Record], config: Mapping[str, Any]) -> list[Record]:
    """Records with how often a run of labels draws each, beside one drawn once."""
    section = config["data"]
    fraction, factor = section["duplicate_fraction"], section["duplicate_factor"]
    weights = np.ones(len(records))
    if fraction > 0:
        weights = duplicate_weights(config["seed"], len(records), fraction, factor)
    times = np.maximum(np.rint(weights), 1).astype(int)
    return [r._replace(repeats=int(n)) for r, n in zip(records, times, strict=True)]


def _some(records: list, seed: int) -> list:
    """Returns at most 20,000 records, drawn by seed."""
    if len(records) <= _MOST_IMAGES:
        return list(records)
    rows = np.random.default_rng([seed, 78]).permutation(len(records))[:_MOST_IMAGES]
    return [records[i] for i in np.sort(rows)]


def draw_prompts(
    run: Run | Model,
    gallery: Gallery,
    kept: Sequence[Record],
    held: Sequence[Record],
    counts: PromptCounts,
    *,
    seed: int | None = None,
    loudest: Sequence[int] = (),
) -> Prompts:
    """Draws prompts that say what the model was told.

    Args:
        run: The run.
        gallery: Its images.
        kept: The record of each gallery row.
        held: Held-out records.
        counts: Most prompts of each family.
        seed: Of the draw; None: the run's.
        loudest: See :func:`memjax.studies.prompts.draw.choose_prompts`.
    """
    return choose_prompts(
        gallery,
        as_told(run, kept),
        as_told(run, held),
        run.label_space,
        counts,
        seed=run.config["seed"] if seed is None else seed,
        loudest=loudest,
    )


def as_told(run: Run | Model, records: Sequence[Record]) -> list[Record]:
    """Returns records as training told them to the model.

    Where uncertain labels were resampled in training, it never saw the token "uncertain": prompts
    then name the likelier state.
    """
    policies = policies_of(run.config["data"].get("uncertainty", "multiclass"))
    return likeliest(records, policies)

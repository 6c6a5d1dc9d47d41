"""Data sets prepared by tensorflow-datasets, read by name and without TensorFlow.

A data set that was prepared as array_record can be read at any row by
``tfds.builder_from_directory(...).as_data_source(split)``. An image's address is
``tfds:///folder/mnist/3.0.1#train/12``; images stay encoded until they are read.

Two data sets of chest radiographs are recognized: the stock ``chexpert`` (which keeps neither sex
nor age nor AP/PA) and ``memjax_chexpert`` (:mod:`memjax.data.tfds_chexpert`), which keeps them.
"""

import functools
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from memjax.data.file_tree import key_of, share_of
from memjax.data.images import FORMATS
from memjax.data.labels.of_data import class_name
from memjax.data.problems import Problems
from memjax.data.readers.tfds_folder import find_prepared, import_tfds, open_builder, source_of
from memjax.data.records import Record, image_record

HELD_OUT_SPLITS: tuple[str, ...] = ("validation", "valid", "val", "test")
CAPTIONS: tuple[str, ...] = ("caption", "text", "prompt", "description")
_CHUNK = 1024
logger = logging.getLogger("memjax.data")


def read_tfds(
    name: str,
    data_dir: str = "",
    *,
    frontal_only: bool = True,
    held_out_fraction: float = 0.0,
    seed: int = 0,
    examples: int = 5,
) -> tuple[list[Record], list[Record], Problems, str]:
    """Reads the labels of a prepared data set; images are read when they are needed.

    Args:
        name: Such as ``mnist``, ``imagenette/full-size-v2`` or ``mnist:3.0.1``.
        data_dir: Folder of prepared data sets, or of this one; empty: ``~/tensorflow_datasets``.
        frontal_only: Leave lateral chest films out.
        held_out_fraction: Share of the training split held out besides, by content (by patient
            where there are patients).
        seed: Decides which share.
        examples: How many examples of each kind of problem are kept.

    Returns:
        Training records, held-out records (of the validation and test splits), what was wrong, and
        the folder that was read.

    Raises:
        ValueError: There is no such data set, it is damaged, it was prepared in a format without
            random access, or it holds neither class labels nor captions.
    """
    if not 0 <= held_out_fraction < 1:
        raise ValueError(f"held_out_fraction is {held_out_fraction}; expected a share in [0, 1).")
    folder = find_prepared(name, data_dir)
    builder = open_builder(folder)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise ValueError(f"{folder} has the splits {splits}; expected one called 'train'.")
    problems = Problems(examples)
    rows = list(_split_records(builder, folder, "train", frontal_only, problems))
    held = [share_of(key, seed) < held_out_fraction for _, key in rows]
    train = [record for (record, _), out in zip(rows, held, strict=True) if not out]
    others = [record for (record, _), out in zip(rows, held, strict=True) if out]
    for split in splits:
        if split in HELD_OUT_SPLITS:
            made = _split_records(builder, folder, split, frontal_only, problems)
            others += [record for record, _ in made]
    if not train:
        raise ValueError(f"{folder} has no usable training image. {problems.summary()}")
    return train, others, problems, folder


def _split_records(
    builder: Any, folder: str, split: str, frontal_only: bool, problems: Problems
) -> Iterator[tuple[Record, str]]:
    """The records of a split with the key that decides on which side of a division each falls."""
    image, labels, captions = _fields(builder.info.features, folder)
    source = source_of(folder, split)
    chest = builder.info.name in ("chexpert", "memjax_chexpert")
    if not (chest or labels or captions):
        raise ValueError(
            f"{folder} has neither a ClassLabel nor a caption among its features "
            f"{sorted(builder.info.features)}; expected one to condition on."
        )
    for start in range(0, len(source), _CHUNK):
        numbers = range(start, min(start + _CHUNK, len(source)))
        for number, row in zip(numbers, source.__getitems__(list(numbers)), strict=True):
            address = f"tfds://{folder}#{split}/{number}"
            if chest:
                record = _chest_record(builder, row, address, problems)
                if record is not None and (record.frontal or not frontal_only):
                    yield record, record.patient
                continue
            classes = [
                (class_name(field), feature.int2str(int(row[field])))
                for field, feature in labels.items()
                if int(row[field]) >= 0
            ]
            text = " ".join(_text(row[field]) for field in captions[:1])
            record = image_record(address, f"{split}-{number}", classes=classes, caption=text)
            yield record, key_of(row[image])


def _chest_record(
    builder: Any, row: Mapping[str, Any], address: str, problems: Problems
) -> Record | None:
    from memjax.data.tfds_chexpert import own_record, stock_record

    make = own_record if builder.info.name == "memjax_chexpert" else stock_record
    record = make(builder.info.features, row, address)
    if record is None:
        problems.add("row without patient", address)
    return record


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fields(features: Mapping[str, Any], folder: str) -> tuple[str, dict[str, Any], Sequence[str]]:
    """The image's field, the class labels and the captions of a data set.

    Raises:
        ValueError: There is no image.
    """
    tfds = import_tfds()
    kinds = {name: type(feature) for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if issubclass(kind, tfds.features.Image)]
    labels = {
        name: features[name]
        for name, kind in kinds.items()
        if issubclass(kind, tfds.features.ClassLabel)
    }
    captions = [
        name for name in CAPTIONS if issubclass(kinds.get(name, object), tfds.features.Text)
    ]
    if not images:
        raise ValueError(f"{folder} has no image among its features {sorted(kinds)}.")
    return "image" if "image" in images else images[0], labels, captions


@functools.lru_cache(maxsize=16)
def _images(folder: str, split: str) -> tuple[Any, str]:
    image, _, _ = _fields(open_builder(folder).info.features, folder)
    return source_of(folder, split), image


def open_image(address: str) -> Image.Image:
    """The image behind ``tfds://FOLDER#SPLIT/NUMBER``, opened but not decoded.

    Raises:
        ValueError: The address is no such one, or names a row that is not there.
        OSError: The row's bytes are no image.
    """
    folder, _, row = address.removeprefix("tfds://").rpartition("#")
    split, _, number = row.rpartition("/")
    if not (folder and split and number.isdigit()):
        raise ValueError("expected an address like tfds:///data/mnist/3.0.1#train/12")
    source, image = _images(folder, split)
    if int(number) >= len(source):
        raise ValueError(f"the split {split!r} has {len(source)} rows")
    try:
        content = source[int(number)][image]
    except (RuntimeError, KeyError) as error:
        raise OSError(f"the row cannot be read: {error}") from error
    return Image.open(io.BytesIO(content), formats=FORMATS)

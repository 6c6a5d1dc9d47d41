"""Where a prepared data set lies, and how it is opened without TensorFlow."""

import functools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from memjax.data.labels.slots import shortened, suggestion

FEATURES, INFO = "features.json", "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_DEPTH = 4


def import_tfds() -> Any:
    """The library, imported when it is first needed.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import importlib_resources  # noqa: F401  (tensorflow-datasets needs it without saying so)
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            "data.kind='tfds' needs tensorflow-datasets, which is not installed "
            f"({error.name or error}): pip install tensorflow-datasets importlib_resources."
        ) from error
    return tensorflow_datasets


class Prepared(NamedTuple):
    """A prepared data set as its folder describes it."""

    name: str
    config: str
    version: tuple[int, ...]
    folder: str

    @property
    def title(self) -> str:
        """Name and configuration."""
        return f"{self.name}/{self.config}" if self.config else self.name


def find_prepared(name: str, data_dir: str = "") -> str:
    """The folder of a prepared data set: the newest version where the name says none.

    Args:
        name: ``mnist``, ``imagenette/full-size-v2``, ``mnist:3.0.1``.
        data_dir: The folder all prepared data sets lie in, or this one's own.

    Raises:
        ValueError: The name is empty, there is no such data set, or several fit.
    """
    base = os.path.abspath(os.path.expanduser(data_dir or "~/tensorflow_datasets"))
    prepared = sorted(_prepared(base))
    titles = sorted({place.title for place in prepared})
    holds = f" ({base} holds {shortened(titles)})" if titles else ""
    if not name:
        raise ValueError(
            "data.tfds_name is empty; expected the name of a prepared data set, such as 'mnist'"
            f"{holds}."
        )
    plain, _, version = name.partition(":")
    mine = [
        place
        for place in prepared
        if plain in (place.name, place.title)
        and (not version or version == ".".join(map(str, place.version)))
    ]
    if not mine:
        raise ValueError(
            f"{base} holds no prepared data set {name!r}{suggestion(plain, titles)}{holds}: "
            f"prepare it with {prepare_command(name, base)}"
        )
    if len({place.title for place in mine}) > 1:
        fitting = shortened(sorted({place.title for place in mine}))
        raise ValueError(f"data.tfds_name={name!r} fits several data sets; expected {fitting}.")
    return max(mine, key=lambda place: place.version).folder


def _prepared(base: str, depth: int = _DEPTH) -> Iterator[Prepared]:
    """What lies at most a few levels below a folder."""
    if os.path.isfile(os.path.join(base, FEATURES)):
        yield _described(base)
    elif depth and os.path.isdir(base):
        with os.scandir(base) as entries:
            below = [e.path for e in entries if e.is_dir() and not e.name.startswith(".")]
        for place in below:
            yield from _prepared(place, depth - 1)


def _described(folder: str) -> Prepared:
    """Name, configuration and version by ``dataset_info.json``; by the path where it is damaged."""
    head, tail = os.path.split(folder)
    numbers = tuple(int(n) for n in tail.split(".")) if _VERSION.fullmatch(tail) else ()
    try:
        with open(os.path.join(folder, INFO), encoding="utf-8") as file:
            info = json.load(file)
        return Prepared(str(info["name"]), str(info.get("configName", "")), numbers, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return Prepared(os.path.basename(head if numbers else folder), "", numbers, folder)


def prepare_command(name: str, data_dir: str) -> str:
    """What prepares a data set in a format that can be read at any row.

    Radiographs are prepared by memjax's own builder: the stock one needs TensorFlow and keeps
    neither sex nor age nor AP/PA.
    """
    if "chexpert" in name:
        return (
            "python -m memjax.data.tfds_chexpert --manual_dir=FOLDER_OF_CheXpert-v1.0-small "
            f"--data_dir={data_dir}"
        )
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{data_dir}', file_format='array_record').download_and_prepare()\""
    )


@functools.lru_cache(maxsize=16)
def open_builder(folder: str) -> Any:
    """The description of a prepared data set.

    Raises:
        ValueError: The description or a file of the data set is damaged or missing.
    """
    tfds = import_tfds()
    try:
        builder = tfds.builder_from_directory(folder)
        splits = dict(builder.info.splits)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ValueError(
            f"{folder} is damaged ({_short(error)}): restore features.json and dataset_info.json, "
            "or prepare the data set again."
        ) from error
    for split, info in splits.items():
        missing = [path for path in map(os.fspath, info.filepaths) if not os.path.isfile(path)]
        if missing and _readable(builder):
            raise ValueError(
                f"{folder} is damaged: {len(missing)} of {info.num_shards} files of the split "
                f"{split!r} are missing, such as {os.path.basename(missing[0])}; restore them or "
                "prepare the data set again."
            )
    return builder


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _readable(builder: Any) -> bool:
    return "TFRECORD" not in str(builder.info.file_format).upper()


@functools.lru_cache(maxsize=32)
def source_of(folder: str, split: str) -> Any:
    """Random access to a split's rows; images come as their encoded bytes.

    Raises:
        ValueError: The format has no random access, or a file is damaged.
    """
    builder = open_builder(folder)
    tfds = import_tfds()
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    if not _readable(builder):
        other = os.path.abspath(os.path.expanduser("~/tensorflow_datasets_array_record"))
        raise ValueError(
            f"{folder} was prepared as TFRECORD, which cannot be read at any row: prepare it anew "
            f"with {prepare_command(_described(folder).title, other)} and pass "
            f"--config.data.tfds_dir={other}"
        )
    try:
        return builder.as_data_source(split=split, decoders=skip)
    except Exception as error:  # see open_builder
        raise ValueError(
            f"the split {split!r} of {folder} cannot be read ({_short(error)}): prepare the data "
            "set again."
        ) from error

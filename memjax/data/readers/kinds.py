"""One reader a kind of data: settings in, training and held-out records out."""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memjax.data import storage
from memjax.data.labels.space import suggestion
from memjax.data.phantoms.folder import write_phantoms
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import patient_split, read_chexpert
from memjax.data.readers.chexpert_tables import table_path
from memjax.data.records import Record


class Read(NamedTuple):
    """What a reader hands on.

    Attributes:
        train: Training records.
        held_out: Records of other patients.
        problems: What was wrong with the data.
        root: Where the data lies, a folder or ``gs://…``.
    """

    train: list[Record]
    held_out: list[Record]
    problems: Problems
    root: str


Reader = Callable[[Path, Mapping[str, Any]], Read]


def read_kind(workdir: Path, kind: str, settings: Mapping[str, Any]) -> Read:
    """Reads the data of a kind.

    Args:
        workdir: Folder of the run; phantoms are drawn below it.
        kind: One of :data:`READERS`.
        settings: The ``data`` section of a configuration, and ``seed``.

    Raises:
        ValueError: If the kind is unknown or there is nothing to read.
    """
    if kind not in READERS:
        raise ValueError(
            f"data.kind is {kind!r}{suggestion(kind, READERS)}, expected one of {tuple(READERS)}."
        )
    if settings.get("labels") and kind not in ("chexpert", "mimic"):
        raise ValueError(
            f"data.labels is {settings['labels']!r} and data.kind {kind!r} has one table of labels "
            "alone; leave it empty, or read kind 'chexpert' or 'mimic'."
        )
    return READERS[kind](workdir, settings)


def _root(settings: Mapping[str, Any], holds: str, example: str) -> str:
    if not settings["root"]:
        raise ValueError(
            f"data.root is empty, expected the folder that holds {holds}: pass "
            f"--config.data.root={example}."
        )
    return os.fspath(settings["root"])


def _phantoms(workdir: Path, settings: Mapping[str, Any]) -> Read:
    folder = settings["root"] or str(workdir / "data" / "CheXpert-v1.0-small")
    write_phantoms(folder, **settings["phantoms"])
    return _chexpert_folder(folder, settings)


def _chexpert(workdir: Path, settings: Mapping[str, Any]) -> Read:
    return _chexpert_folder(_root(settings, "train.csv", "/data/CheXpert-v1.0-small"), settings)


def _chexpert_folder(folder: str, settings: Mapping[str, Any]) -> Read:
    frontal, labels = settings["frontal_only"], settings.get("labels", "")
    train, problems = read_chexpert(folder, "train", labels=labels, frontal_only=frontal)
    train, held = patient_split(train, settings["held_out_fraction"], settings["seed"])
    for split in ("valid", "test"):
        if not storage.exists(table_path(folder, split)):
            continue
        try:
            more, wrong = read_chexpert(folder, split, frontal_only=frontal)
        except ValueError as error:
            if split == "valid":
                raise
            problems.add("test set that cannot be read", str(error)[:400])
            continue
        problems.merge(wrong)
        held = [*held, *more]
    return Read(train, held, problems, folder)


def _nih(workdir: Path, settings: Mapping[str, Any]) -> Read:
    """The official patient-wise lists; without them, all rows and a share of the patients."""
    root = _root(settings, "Data_Entry_2017_v2020.csv", "/data/ChestX-ray14")
    lists = storage.exists(f"{storage.root_text(root)}/train_val_list.txt")
    listed = lists or not settings["held_out_fraction"]
    return _chest(root, settings, "nih", "train" if listed else "all", listed)


def _mimic(workdir: Path, settings: Mapping[str, Any]) -> Read:
    root = _root(settings, "mimic-cxr-2.0.0-metadata.csv.gz", "/data/mimic-cxr-jpg/2.1.0")
    labels = settings.get("labels", "")
    return _chest(root, settings, "mimic", "train", True, labels=labels)


def _chest(
    root: str, settings: Mapping[str, Any], kind: str, split: str, with_valid: bool, **options: Any
) -> Read:
    read = getattr(importlib.import_module(f"memjax.data.readers.{kind}"), f"read_{kind}")
    frontal = settings["frontal_only"]
    train, problems = read(root, split, frontal_only=frontal, **options)
    train, held = patient_split(train, settings["held_out_fraction"], settings["seed"])
    if with_valid:
        valid, wrong = read(root, "valid", frontal_only=frontal, **options)
        problems.merge(wrong)
        held = [*held, *valid]
    return Read(train, held, problems, root)


def _folder(workdir: Path, settings: Mapping[str, Any]) -> Read:
    from memjax.data.readers.folder import read_folder

    root = _root(settings, "the images", "/data/pictures")
    train, held, problems = read_folder(
        root,
        class_fields=tuple(settings["class_fields"]),
        held_out_fraction=settings["held_out_fraction"],
        seed=settings["seed"],
    )
    return Read(train, held, problems, root)


def _scenes(workdir: Path, settings: Mapping[str, Any]) -> Read:
    from memjax.data.phantoms.scenes import write_scenes

    folder = settings["root"] or str(workdir / "data" / "scenes")
    write_scenes(folder, **settings["scenes"])
    return _folder(workdir, {**settings, "root": folder})


def _tfds(workdir: Path, settings: Mapping[str, Any]) -> Read:
    from memjax.data.readers.tfds import read_tfds

    train, held, problems, folder = read_tfds(
        settings["tfds_name"],
        settings["tfds_dir"] or settings["root"],
        frontal_only=settings["frontal_only"],
        held_out_fraction=settings["held_out_fraction"],
        seed=settings["seed"],
    )
    return Read(train, held, problems, folder)


def _digits(workdir: Path, settings: Mapping[str, Any]) -> Read:
    from memjax.data.readers.digits import read_digits

    given: dict[str, Any] = dict(settings["digits"])
    if "classes" in given:
        given["classes"] = tuple(given["classes"])
    train, held = read_digits(**given)
    return Read(train, held, Problems(), "scikit-learn's handwritten digits")


READERS: dict[str, Reader] = {
    "phantoms": _phantoms,
    "chexpert": _chexpert,
    "nih": _nih,
    "mimic": _mimic,
    "folder": _folder,
    "scenes": _scenes,
    "tfds": _tfds,
    "digits": _digits,
}

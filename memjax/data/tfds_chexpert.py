"""CheXpert as a prepared data set: memjax's own builder, and the stock one read back.

``python -m memjax.data.tfds_chexpert --manual_dir=/data --data_dir=/data/tfds`` prepares
``/data/CheXpert-v1.0`` or ``/data/CheXpert-v1.0-small`` as array_record, without TensorFlow; it is
read by ``--config.data.kind=tfds --config.data.tfds_name=memjax_chexpert`` and
``--config.data.tfds_dir=/data/tfds``.

The stock ``chexpert`` of tensorflow-datasets 4.9.10 keeps images, the 14 findings and
frontal/lateral; sex, age and AP/PA are lost, and its builder needs TensorFlow. This one keeps them
and skips bad rows as :func:`memjax.data.readers.chexpert.read_chexpert` does.
"""

import argparse
import functools
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memjax.data import storage
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import read_chexpert
from memjax.data.readers.chexpert_places import RELEASES, base_folder
from memjax.data.readers.chexpert_tables import table_path
from memjax.data.readers.tfds_folder import import_tfds
from memjax.data.records import (
    BLANK,
    FINDINGS,
    NEGATIVE,
    POSITIVE,
    STATES,
    UNCERTAIN,
    VIEWS,
    Record,
)

NAME = "memjax_chexpert"
_PLACE = re.compile(r"(patient\w+)/(study\w+)/")
_STOCK = {"uncertain": UNCERTAIN, "positive": POSITIVE, "negative": NEGATIVE, "unmentioned": BLANK}
_SEXES = ("Male", "Female", "unknown")
_VIEWS = (*VIEWS, "unknown")
_STATES = STATES
logger = logging.getLogger("memjax.data")


@functools.cache
def builder_class() -> type:
    """The builder ``memjax_chexpert``; made when it is first asked for, as it needs the library.

    Raises:
        ValueError: tensorflow-datasets is not installed.
    """
    tfds = import_tfds()

    class MemjaxChexpert(tfds.core.GeneratorBasedBuilder):
        """CheXpert with sex, age, view, patient and study."""

        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = (
            "Register at https://stanfordmlgroup.github.io/competitions/chexpert/ and put the "
            "folder CheXpert-v1.0 or CheXpert-v1.0-small into manual_dir."
        )

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description="CheXpert chest radiographs with their whole table.",
                homepage="https://stanfordmlgroup.github.io/competitions/chexpert/",
                features=_features(tfds),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            root = chexpert_root(os.fspath(dl_manager.manual_dir))
            splits = {"train": ("train", True), "validation": ("valid", False)}
            return {
                name: self._generate_examples(root, table)
                for name, (table, needed) in splits.items()
                if needed or storage.exists(table_path(root, table))
            }

        def _generate_examples(self, root: str, table: Any) -> Any:
            records, problems = read_chexpert(root, table, frontal_only=False)
            _say(table, problems)
            for record in records:
                yield record.path[len(root) + 1 :], _example(record, root)

    return MemjaxChexpert


def _say(table: str, problems: Problems) -> None:
    if problems:
        logger.warning("%s.csv: left out or mended: %s", table, problems.summary())


def chexpert_root(manual_dir: str) -> str:
    """The CheXpert folder in a folder of downloads, or that folder itself.

    Raises:
        ValueError: There is none.
    """
    base = storage.root_text(manual_dir)
    for place in (base, *(f"{base}/{name}" for name in RELEASES)):
        if storage.exists(table_path(place, "train")):
            return base_folder(place)
    raise ValueError(
        f"{base} holds no train.csv, nor do {' or '.join(RELEASES)} in it; expected the folder "
        "that CheXpert was unpacked into."
    )


def _features(tfds: Any) -> Any:
    label = tfds.features.ClassLabel
    return tfds.features.FeaturesDict(
        {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
            "patient": tfds.features.Text(),
            "study": tfds.features.Text(),
            "view": label(names=list(_VIEWS)),
            "position": label(names=["frontal", "lateral"]),
            "sex": label(names=list(_SEXES)),
            "age": tfds.features.Scalar(np.int32),
            "findings": tfds.features.Sequence(label(names=list(_STATES)), length=len(FINDINGS)),
        }
    )


def _example(record: Record, root: str) -> dict[str, Any]:
    return {
        "name": record.path[len(root) + 1 :],
        "image": record.path,
        "patient": record.patient,
        "study": record.study,
        "view": record.view or "unknown",
        "position": "frontal" if record.frontal else "lateral",
        "sex": record.sex or "unknown",
        "age": record.age or -1,
        "findings": [STATES[state] for state in record.findings],
    }


def own_record(features: Mapping[str, Any], row: Mapping[str, Any], address: str) -> Record:
    """The record of a row of ``memjax_chexpert``."""
    view = features["view"].int2str(int(row["view"]))
    sex = features["sex"].int2str(int(row["sex"]))
    age = int(row["age"])
    return Record(
        path=address,
        patient=_text(row["patient"]),
        study=_text(row["study"]),
        view="" if view == "unknown" else view,
        sex="" if sex == "unknown" else sex,
        age=age if age > 0 else None,
        frontal=features["position"].int2str(int(row["position"])) == "frontal",
        findings=tuple(int(state) for state in row["findings"]),
    )


def stock_record(
    features: Mapping[str, Any], row: Mapping[str, Any], address: str
) -> Record | None:
    """The record of a row of the stock ``chexpert``; None where its name holds no patient."""
    name = _text(row["name"])
    place = _PLACE.search(name)
    if place is None:
        return None
    names = features["label"].feature.names
    lateral = "lateral" in name.rsplit("/", 1)[-1]
    if "image_view" in features:
        lateral = features["image_view"].int2str(int(row["image_view"])) == "lateral"
    return Record(
        path=address,
        patient=place[1],
        study=place[2],
        view="",
        sex="",
        age=None,
        frontal=not lateral,
        findings=tuple(_STOCK[names[int(state)]] for state in row["label"]),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def prepare_chexpert(manual_dir: str, data_dir: str) -> str:
    """Prepares CheXpert as array_record, without TensorFlow.

    Args:
        manual_dir: The folder that holds ``CheXpert-v1.0`` or ``CheXpert-v1.0-small``, or that
            folder itself.
        data_dir: Where prepared data sets lie.

    Returns:
        The prepared data set's folder.

    Raises:
        ValueError: There is no CheXpert to read, or the library is not installed.
    """
    chexpert_root(manual_dir)
    tfds = import_tfds()
    builder = builder_class()(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return os.fspath(builder.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the preparation from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m memjax.data.tfds_chexpert", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--manual_dir", required=True, help="holds CheXpert-v1.0 or -small")
    parser.add_argument("--data_dir", required=True, help="where prepared data sets lie")
    given = parser.parse_args(arguments)
    try:
        folder = prepare_chexpert(given.manual_dir, given.data_dir)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"memjax: {error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

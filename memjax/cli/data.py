"""memjax data --config=NAME --out=DIR

Reads the data of a configuration and writes what is in it: DIR/data.html (counts, class balance,
images that stand more than once, rows at risk of being memorized, a contact sheet), data.json and
one CSV per table. Nothing is trained. Phantoms are drawn into DIR/data if there is no data.root.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from memjax.cli.flags import MOST, force_flag, require
from memjax.core.names import NEAR_DUPLICATE
from memjax.runs.config import check_config, check_data, plain

if TYPE_CHECKING:
    from memjax.evaluate.dataset.survey import Looked
    from memjax.training.data import RunData

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Bundled name or path of a configuration.", lock_config=True, flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Folder for the page and the tables.", flag_values=FLAGS)
_IMAGES = flags.DEFINE_integer(
    "pictures", 5_000, "Most images looked at, drawn by the seed.", 1, MOST, flag_values=FLAGS
)
_SIZE = flags.DEFINE_integer(
    "size", 128, "Edge in pixels of the images looked at.", 16, 1024, flag_values=FLAGS
)
_NEAR = flags.DEFINE_float(
    "near",
    NEAR_DUPLICATE,
    "Least cross-correlation of near duplicates.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
_FORCE = force_flag(FLAGS)


def look_at(data: RunData, settings: dict[str, Any], *, most: int, size: int, seed: int) -> Looked:
    """Decodes the images to look at, out of both splits; what is corrupt is counted."""
    import numpy as np

    from memjax.data.readers.chexpert import check_images
    from memjax.data.statistics import HELD_OUT, TRAIN
    from memjax.evaluate.dataset.survey import Looked, draw_rows
    from memjax.training.data import load_pictures

    records = [*data.train, *data.held_out]
    rows = draw_rows(len(records), most, seed)
    chosen = [(int(row), records[row]) for row in rows]
    if not settings["check"]:
        kept, wrong = check_images([record for _, record in chosen])
        data.problems.merge(wrong)
        readable = {record.path for record in kept}
        chosen = [(row, record) for row, record in chosen if record.path in readable]
    images = load_pictures(
        [record for _, record in chosen],
        size=size,
        channels=settings["channels"],
        square=settings["square"],
        in_memory_rows=len(chosen),
    )
    split = [TRAIN if row < len(data.train) else HELD_OUT for row, _ in chosen]
    number = [row if row < len(data.train) else row - len(data.train) for row, _ in chosen]
    kept = [record for _, record in chosen]
    return Looked(np.asarray(images), kept, split, number, len(records))


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(config=_CONFIG.value, out=_OUT.value)
    check_config(plain(_CONFIG.value))
    check_data(plain(_CONFIG.value))
    if not 0 < _NEAR.value <= 1:
        raise ValueError(f"--near={_NEAR.value}, expected a correlation above 0, at most 1.")


def main() -> int:
    """Runs the command."""
    config = plain(_CONFIG.value)
    from memjax.report.pages.dataset import FILES
    from memjax.runtime.locks import hold

    with hold(_OUT.value, FILES, force=_FORCE.value) as folder:
        return _survey(config, folder)


def _survey(config: dict[str, Any], folder: Path) -> int:
    from memjax.data.dataset import encode_records
    from memjax.evaluate.dataset.survey import survey
    from memjax.report.pages.dataset import data_files
    from memjax.runtime.files import write_bytes
    from memjax.runtime.json import text_bytes
    from memjax.runtime.provenance import provenance
    from memjax.training.data import prepare_data

    seed, settings = config["seed"], config["data"]
    data = prepare_data(folder, seed=seed, **settings)
    looked = look_at(data, settings, most=_IMAGES.value, size=_SIZE.value, seed=seed)
    labels = encode_records(data.train, data.label_space)
    result = survey(
        data.train,
        data.held_out,
        labels,
        data.label_space,
        data.problems,
        looked,
        root=str(data.root),
        threshold=_NEAR.value,
    )
    made_by = provenance(config, seed, pictures=_IMAGES.value, size=_SIZE.value, near=_NEAR.value)
    name = settings["kind"]
    files = data_files(
        result,
        looked.images,
        looked.records,
        title=f"The data: {name}",
        made_by={**made_by, "config": {"data": settings}},
        seed=seed,
    )
    for file, text in files.items():
        write_bytes(folder / file, text_bytes(text))
    for sentence in result["stand_out"]:
        print(sentence)
    print(f"written: {folder / 'data.html'}")
    return 0

"""CheXpert prepared by memjax's own builder: the same records as from the folder, no TensorFlow."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from memjax.data.images import load_image
from memjax.data.readers.chexpert import COLUMNS, read_chexpert
from memjax.data.readers.tfds import read_tfds
from memjax.data.tfds_chexpert import chexpert_root, main
from tests.commands import PATIENCE

ROWS = [
    ("patient00001/study1/view1_frontal.jpg", "Male", "63", "Frontal", "AP", {"Edema": "1.0"}),
    ("patient00001/study1/view2_lateral.jpg", "Male", "63", "Lateral", "", {"Edema": "1.0"}),
    ("patient00002/study5/view1_frontal.jpg", "Female", "0", "Frontal", "PA", {"Fracture": "-1.0"}),
    ("patient00003/study1/view1_frontal.jpg", "Unknown", "90", "Frontal", "AP", {"Edema": "0.0"}),
    ("patient00004/study1/view1_frontal.jpg", "Male", "44", "Frontal", "AP", {"Edema": "7"}),
]
VALID = [("patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP", {})]


def write_tree(folder, name):
    """Grey JPEGs and both tables as CheXpert distributes them; the fifth row is impossible."""
    root = folder / name
    for table, rows in (("train", ROWS), ("valid", VALID)):
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f"{table}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for number, (place, sex, age, position, view, states) in enumerate(rows):
                path = root / table / place
                path.parent.mkdir(parents=True, exist_ok=True)
                gradient = np.add.outer(np.arange(39), np.arange(32) * (number + 1))
                Image.fromarray(gradient.astype(np.uint8)).save(path)
                person = (f"{name}/{table}/{place}", sex, age, position, view)
                writer.writerow({**dict(zip(COLUMNS, person, strict=False)), **states})
    return root


@pytest.mark.parametrize("name", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_the_prepared_records_are_the_folders(tmp_path, name):
    root = write_tree(tmp_path / "manual", name)
    command = [sys.executable, "-X", "importtime", "-m", "memjax.data.tfds_chexpert"]
    command += [f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path / 'tfds'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    made_in = str(tmp_path / "tfds" / "memjax_chexpert" / "1.0.0")
    assert done.stdout.splitlines()[-1] == made_in
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "tensorflow_datasets" in imported
    assert "tensorflow" not in imported
    assert "impossible value: 1 (train.csv row 6, column 'Edema': '7')" in done.stderr
    train, held, problems, _ = read_tfds(
        "memjax_chexpert", str(tmp_path / "tfds"), frontal_only=False
    )
    assert not problems
    for part, made in (("train", train), ("valid", held)):
        expected, _ = read_chexpert(root, part, frontal_only=False)
        by_study = {(r.patient, r.study, r.frontal): r for r in made}
        assert len(made) == len(expected) == len(by_study)
        for record in expected:
            own = by_study[record.patient, record.study, record.frontal]
            assert own._replace(path="") == record._replace(path="")
            np.testing.assert_array_equal(load_image(own.path, 32), load_image(record.path, 32))


def test_the_folder_itself_may_be_named(tmp_path):
    root = write_tree(tmp_path, "CheXpert-v1.0")
    assert chexpert_root(f"{root}/") == str(root) == chexpert_root(str(tmp_path))


def test_no_chexpert_is_one_sentence(tmp_path, capsys):
    assert main([f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"memjax: {tmp_path} holds no train.csv, nor do CheXpert-v1.0 or")
    assert not (tmp_path / "out").exists()

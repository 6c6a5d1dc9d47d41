"""What is wrong with somebody's data: one sentence that helps, and earlier results untouched."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tfds_sets import write_mnist

from memjax.training.data import prepare_data

DATA = {
    "strict": True, "check": True, "root": "", "frontal_only": True, "held_out_fraction": 0.0,
    "findings": (), "num_markers": 0, "age_bin": 5, "use_view": True, "use_sex": True,
    "use_age": True, "seed": 0, "phantoms": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two captioned images with metadata; and a prepared data set."""
    folder = tmp_path_factory.mktemp("good")
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    lines = [{"file_name": f"{n}.png", "text": f"number {n}", "kind": "x"} for n in (1, 2)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    tfds = tmp_path_factory.mktemp("tfds")
    write_mnist(tfds, train=3, test=1)
    return folder, tfds


def add(*lines):
    """Appends lines to ``metadata.jsonl``; dictionaries as JSON."""

    def change(folder):
        with open(folder / "metadata.jsonl", "a") as file:
            file.writelines(
                (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in lines
            )

    return change


def caption(content):
    """Captions beside the images instead of the table; the second is ``content``."""

    def change(folder):
        (folder / "metadata.jsonl").unlink()
        (folder / "1.txt").write_text("one")
        if content is not None:
            (folder / "2.txt").write_bytes(content)

    return change


def cut(name, share=0.5):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return change


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def write_latin_table(folder):
    (folder / "metadata.jsonl").write_bytes('{"file_name": "1.png", "text": "é"}'.encode("latin-1"))


def no_table(folder):
    (folder / "metadata.jsonl").unlink()


FOLDERS = {
    "a line that is no JSON": (add("{broken"), {}, "line is not JSON: 1 (metadata.jsonl line 3"),
    "a line that is no object": (add("[1]"), {}, "line is no object: 1 (metadata.jsonl line 3"),
    "no file_name": (
        add({"fle_name": "1.png", "text": "a"}),
        {},
        "line without file_name: 1 (metadata.jsonl line 3 (did you mean 'fle_name'?))",
    ),
    "a file that is not there": (
        add({"file_name": "7.png", "text": "a"}),
        {},
        "missing file: 1 (metadata.jsonl line 3: 7.png)",
    ),
    "a file of another kind": (
        add({"file_name": "metadata.jsonl", "text": "a"}),
        {},
        "file of another kind: 1 (metadata.jsonl line 3: metadata.jsonl)",
    ),
    "text that is no string": (
        add({"file_name": "1.png", "text": 7}),
        {},
        "text is no string: 1 (metadata.jsonl line 3: '7')",
    ),
    "a file named twice": (
        add({"file_name": "./1.png", "text": "again"}),
        {},
        "repeated file: 1 (metadata.jsonl line 3: 1.png)",
    ),
    "a path that climbs out": (
        add({"file_name": "../good/1.png", "text": "a"}),
        {},
        "file outside the folder: 1 (metadata.jsonl line 3: '../good/1.png')",
    ),
    "an absolute path": (
        add({"file_name": "/etc/passwd", "text": "a"}),
        {},
        "file outside the folder: 1 (metadata.jsonl line 3: '/etc/passwd')",
    ),
    "an empty text": (
        add({"file_name": "1.png", "description": "a"}),
        {},
        "empty caption: 1 (metadata.jsonl line 3 (did you mean 'description'?))",
    ),
    "an unknown class field": (
        lambda folder: None,
        {"class_fields": ("knid",)},
        "class_fields names 'knid', which no line of metadata.jsonl has (did you mean 'kind'?)",
    ),
    "a class label that is a list": (
        add({"file_name": "1.png", "kind": ["a"]}),
        {"class_fields": ("kind",)},
        "class label is no text: 1 (metadata.jsonl line 3: kind=['a'])",
    ),
    "class fields without a table": (
        no_table,
        {"class_fields": ("kind",)},
        "holds no metadata.jsonl; leave it empty or write one",
    ),
    "a table that is not UTF-8": (write_latin_table, {}, "metadata.jsonl is not UTF-8 text"),
    "an empty folder": (emptied, {}, "holds no images; expected a folder with files that end"),
    "an empty caption file": (caption(b" \n"), {}, "empty caption: 1 (2.txt)"),
    "a caption that is not UTF-8": (caption(b"\xff\xfe"), {}, "caption is not UTF-8: 1 (2.txt"),
    "an image without its caption": (
        caption(None),
        {},
        "image without caption: 1 (2.png (no 2.txt))",
    ),
    "nothing to condition on": (no_table, {"strict": False}, "neither class labels nor captions"),
    "a corrupt image": (cut("2.png"), {}, "corrupt image: 1 ("),
    "an impossible share": (
        lambda folder: None,
        {"held_out_fraction": 1.5},
        "held_out_fraction is 1.5; expected a share in [0, 1)",
    ),
    "no words": (
        lambda folder: None,
        {"max_words": 0},
        "max_words is 0; expected at least 1 word",
    ),
}


def everything(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def refused(workdir, words, **settings):
    """One sentence that holds ``words``; the workdir's earlier files stay as they are."""
    workdir.mkdir()
    (workdir / "run.json").write_text("{}")
    (workdir / "report.html").write_text("earlier")
    before = everything(workdir)
    with pytest.raises(ValueError, match=r".") as caught:
        prepare_data(workdir, **{**DATA, **settings})
    said = str(caught.value)
    assert words in said, said
    assert "\n" not in said
    assert everything(workdir) == before


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_broken_folder_is_one_sentence(good, tmp_path, kind):
    change, settings, words = FOLDERS[kind]
    folder = shutil.copytree(good[0], tmp_path / "good")
    change(folder)
    refused(tmp_path / "run", words, kind="folder", **{"root": str(folder), **settings})


def test_the_folder_it_started_from_is_good(good, tmp_path):
    data = prepare_data(tmp_path, **{**DATA, "kind": "folder", "root": str(good[0])})
    assert len(data.train) == 2
    assert not os.listdir(tmp_path)


def as_tfrecord(folder):
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for shard in folder.glob("*array_record*"):
        shard.rename(folder / shard.name.replace("array_record", "tfrecord"))


def overwritten(name):
    return lambda folder: (folder / name).write_text("{not json")


def without_a_shard(folder):
    next(folder.glob("mnist-train*")).unlink()


def no_change(folder):
    pass


PREPARED = {
    "a TFRECORD copy": (
        as_tfrecord,
        {},
        "was prepared as TFRECORD, which cannot be read at any row: prepare it anew with python -c",
    ),
    "an unknown name": (
        no_change,
        {"tfds_name": "mnits"},
        "holds no prepared data set 'mnits' (did you mean 'mnist'?)",
    ),
    "no name": (no_change, {"tfds_name": ""}, "data.tfds_name is empty; expected the name"),
    "no such folder": (
        no_change,
        {"tfds_dir": "/nowhere/at/all"},
        "/nowhere/at/all holds no prepared data set 'mnist': prepare it with python -c",
    ),
    "a damaged description": (overwritten("features.json"), {}, "3.0.1 is damaged ("),
    "a damaged table of splits": (overwritten("dataset_info.json"), {}, "3.0.1 is damaged ("),
    "a missing file": (without_a_shard, {}, "1 of 1 files of the split 'train' are missing"),
}


@pytest.mark.parametrize("kind", PREPARED)
def test_a_broken_prepared_data_set_is_one_sentence(good, tmp_path, kind):
    change, settings, words = PREPARED[kind]
    folder = shutil.copytree(good[1], tmp_path / "tfds")
    change(folder / "mnist" / "3.0.1")
    given = {"tfds_name": "mnist", "tfds_dir": str(folder), **settings}
    refused(tmp_path / "run", words, kind="tfds", **given)


DIGITS = {
    "a class out of range": ({"classes": (3, 12)}, "digits.classes is (3, 12); expected digits"),
    "no classes": ({"classes": ()}, "digits.classes is (); expected digits from 0 to 9"),
    "a repeated class that is not used": (
        {"classes": (1, 2)},
        "digits.duplicated_class is 9; expected one of digits.classes=(1, 2)",
    ),
    "no copies": ({"copies": 0}, "digits.copies is 0; expected 1 to 100000"),
    "more than there are": (
        {"num_held_out": 120, "num_duplicated": 60},
        "more than the 170 images that every class has; take fewer",
    ),
}


@pytest.mark.parametrize("kind", DIGITS)
def test_impossible_digits_are_one_sentence(tmp_path, kind):
    settings, words = DIGITS[kind]
    refused(tmp_path / "run", words, kind="digits", digits=settings)


KINDS = {
    "an unknown kind": ({"kind": "folders"}, "data.kind is 'folders' (did you mean 'folder'?)"),
    "no root": ({"kind": "folder"}, "data.root is empty, expected the folder that holds the imag"),
    "an unknown policy": (
        {"kind": "digits", "uncertainty": "onse"},
        "is 'onse' (did you mean 'ones'?)",
    ),
    "a policy that is no JSON": (
        {"kind": "digits", "uncertainty": '{"Edema": ones}'},
        "which is no JSON (",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_impossible_setting_is_one_sentence(tmp_path, kind):
    settings, words = KINDS[kind]
    refused(tmp_path / "run", words, **settings)

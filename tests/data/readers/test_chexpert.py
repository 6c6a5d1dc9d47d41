import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from memjax.data.labels.space import FINDINGS
from memjax.data.problems import Problems
from memjax.data.readers.chexpert import COLUMNS, check_images, patient_split, read_chexpert
from memjax.data.records import BLANK, NEGATIVE, POSITIVE, UNCERTAIN
from memjax.data.tfds_chexpert import chexpert_root


def row(number, prefix="CheXpert-v1.0-small/", **changes):
    cells = dict.fromkeys(COLUMNS, "")
    cells.update(
        {
            "Path": f"{prefix}train/patient{number:05d}/study1/view1_frontal.jpg",
            "Sex": "Male",
            "Age": "61",
            "Frontal/Lateral": "Frontal",
            "AP/PA": "AP",
        }
    )
    cells.update(changes)
    return cells


@pytest.fixture
def folder(tmp_path):
    """Write a table and its (tiny) images; returns the root."""

    def write(rows, columns=COLUMNS, images=True, name="train.csv"):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([[cells.get(c, "") for c in columns] for cells in rows])
        for cells in rows if images else ():
            place = tmp_path / cells["Path"].split("/", 1)[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 9, np.uint8)).save(place)
        return tmp_path

    return write


def test_a_row_read_by_hand(folder):
    changes = {"Edema": "1.0", "Fracture": "0.0", "Pneumonia": "-1.0", "Sex": "Female"}
    records, problems = read_chexpert(folder([row(7, **changes)]))
    (record,) = records
    assert not problems
    assert problems.summary() == "No problems found."
    state = dict(zip(FINDINGS, record.findings, strict=True))
    assert (state["Edema"], state["Fracture"], state["Pneumonia"]) == (
        POSITIVE,
        NEGATIVE,
        UNCERTAIN,
    )
    assert state["Cardiomegaly"] == BLANK
    assert record.path.endswith("/train/patient00007/study1/view1_frontal.jpg")
    assert record[1:7] == ("patient00007", "study1", "AP", "Female", 61, True)
    assert record.markers == ()


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0/", "CheXpert-v1.0-small/"])
def test_both_releases_name_the_same_file(folder, prefix):
    records, problems = read_chexpert(folder([row(1, prefix)]))
    assert len(records) == 1
    assert not problems


BATCHES = {
    "train": ("CheXpert-v1.0 batch 2 (train 1)", "CheXpert-v1.0 batch 3 (train 2)"),
    "valid": ("CheXpert-v1.0 batch 1 (validate & csv)",),
}


def unzipped(root, tables):
    """v1.0 at full size as it unzips: two patients of train, one of valid, tables in ``tables``."""
    rows = {
        "train": [row(1, "CheXpert-v1.0/"), row(30000, "CheXpert-v1.0/")],
        "valid": [row(64541, "CheXpert-v1.0/")],
    }
    rows["valid"][0]["Path"] = rows["valid"][0]["Path"].replace("/train/", "/valid/")
    for split, batches in BATCHES.items():
        for number, cells in enumerate(rows[split]):
            below = cells["Path"].split("/", 2)[2]
            place = root / batches[number] / ("valid" if split == "valid" else "") / below
            place.parent.mkdir(parents=True)
            Image.fromarray(np.full((4, 4), 9, np.uint8)).save(place)
        tables.mkdir(exist_ok=True)
        with open(tables / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows[split])


@pytest.mark.parametrize("tables", ["", BATCHES["valid"][0]])
@pytest.mark.parametrize("root", ["", BATCHES["valid"][0]])
def test_the_full_size_is_read_as_it_unzips(tmp_path, tables, root):
    unzipped(tmp_path, tmp_path / tables)
    train, problems = read_chexpert(tmp_path / root, strict=True)
    assert not problems
    valid, _ = read_chexpert(tmp_path / root, "valid", strict=True)
    assert [r.path.removeprefix(f"{tmp_path}/") for r in [*train, *valid]] == [
        "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0 batch 3 (train 2)/patient30000/study1/view1_frontal.jpg",
        "CheXpert-v1.0 batch 1 (validate & csv)/valid/patient64541/study1/view1_frontal.jpg",
    ]
    assert chexpert_root(str(tmp_path / root)) == str(tmp_path)


def test_a_batch_that_was_not_unzipped_is_missing(tmp_path):
    unzipped(tmp_path, tmp_path)
    shutil.rmtree(tmp_path / BATCHES["train"][1])
    records, problems = read_chexpert(tmp_path)
    assert [r.patient for r in records] == ["patient00001"]
    assert problems.counts == {"missing file": 1}


def test_a_batch_whose_patients_were_moved_into_train(tmp_path):
    unzipped(tmp_path, tmp_path)
    (tmp_path / "train").mkdir()
    shutil.move(tmp_path / BATCHES["train"][0] / "patient00001", tmp_path / "train")
    records, problems = read_chexpert(tmp_path)
    assert not problems
    assert [r.patient for r in records] == ["patient00001", "patient30000"]


@pytest.mark.parametrize("prefix", [f"{BATCHES['train'][0]}/", "CheXpert-v1.0/train/"])
def test_a_file_that_is_there_as_written_is_found(folder, tmp_path, prefix):
    path = f"{prefix}patient00001/study1/view1_frontal.jpg"
    root = folder([row(1, Path=path)], images=False)
    place = tmp_path / path
    place.parent.mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(place)
    records, problems = read_chexpert(root, strict=True)
    assert not problems
    assert [r.path for r in records] == [str(place)]


def test_columns_may_stand_in_any_order(folder):
    records, _ = read_chexpert(folder([row(1, Edema="1.0")], columns=COLUMNS[::-1]))
    assert records[0].findings[FINDINGS.index("Edema")] == POSITIVE


def test_laterals_are_left_out_or_kept(folder):
    lateral = row(2, **{"Frontal/Lateral": "Lateral", "AP/PA": ""})
    root = folder([row(1), lateral])
    assert len(read_chexpert(root)[0]) == 1
    both, problems = read_chexpert(root, frontal_only=False)
    assert [r.frontal for r in both] == [True, False]
    assert not problems


def test_unknown_sex_and_age_zero_mean_missing(folder):
    records, problems = read_chexpert(folder([row(1, Sex="Unknown", Age="0")]))
    assert records[0].sex == ""
    assert records[0].age is None
    assert not problems


BAD = {
    "impossible value": ({"Edema": "2.0"}, "row 3, column 'Edema': '2.0'"),
    "impossible view": ({"AP/PA": "XX"}, "row 3, column 'AP/PA': 'XX'"),
    "impossible side": ({"Frontal/Lateral": ""}, "row 3, column 'Frontal/Lateral': ''"),
    "impossible age": ({"Age": "-4"}, "row 3, column 'Age': '-4'"),
    "impossible sex": ({"Sex": "M"}, "row 3, column 'Sex': 'M'"),
    "bad path": ({"Path": "CheXpert-v1.0/../patient1/study1/a.jpg"}, "row 3: "),
    "repeated path": (
        {"Path": "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"},
        "row 3: train/patient00001",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_counted_and_named(folder, kind):
    changes, where = BAD[kind]
    root = folder([row(1), row(2, **changes)], images=False)
    records, problems = read_chexpert(root, check_files=False)
    counted = "impossible value" if kind in ("impossible view", "impossible side") else kind
    assert problems.counts == {counted: 1}
    assert where in problems.summary()
    kept = kind in ("impossible age", "impossible sex")
    assert len(records) == 1 + kept
    with pytest.raises(ValueError, match=r"has 1 problems; mend them") as caught:
        read_chexpert(root, check_files=False, strict=True)
    assert where in str(caught.value)


@pytest.mark.parametrize("age", ["nan", "inf", "1e9", "12.5", "old", "121"])
def test_impossible_ages_leave_the_row_without_age(folder, age):
    root = folder([row(1, Age=age)])
    records, problems = read_chexpert(root)
    assert records[0].age is None
    assert problems.counts == {"impossible age": 1}


@pytest.mark.parametrize("value", ["NaN", "nan", "yes", "1.5", "--1", "١"])
def test_only_the_four_values_are_possible(folder, value):
    root = folder([row(1), row(2, Edema=value)])
    assert read_chexpert(root)[1].counts == {"impossible value": 1}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/patient1/study1/a.jpg",
        "C:\\patient1\\study1\\a.jpg",
        "/data/train/../patient1/study1/a.jpg",
        "CheXpert-v1.0-small//etc/patient1/study1/a.jpg",
        "../patient1/study1/a.jpg",
        "..\\patient1\\study1\\a.jpg",
        "file:///patient1/study1/a.jpg",
        "train/nobody/a.jpg",
        "",
    ],
)
def test_paths_that_leave_the_folder_are_refused(folder, path):
    root = folder([row(1), row(2, Path=path)], images=False)
    records, problems = read_chexpert(root, check_files=False)
    assert problems.counts == {"bad path": 1}
    assert len(records) == 1


def test_cells_too_few_or_many_are_counted(folder):
    root = folder([row(1)])
    with open(root / "train.csv", "a", encoding="utf-8") as file:
        file.write("CheXpert-v1.0-small/train/patient00002/study1/a.jpg,Male\n\n")
        file.write(",".join(row(3).values()) + ",1.0\n")
    records, problems = read_chexpert(root)
    assert len(records) == 1
    assert problems.counts == {"wrong number of cells": 2}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([c for c in COLUMNS if c != "Edema"], ["lacks 'Edema';"]),
        (
            [c.replace("Edema", "Oedema") for c in COLUMNS],
            ["lacks 'Edema' (is it misspelt as 'Oedema'?)", "other columns 'Oedema'"],
        ),
        ([*COLUMNS, "Sex"], ["names twice 'Sex'"]),
        ([], ["lacks 'Path'"]),
    ],
)
def test_wrong_columns_are_named(folder, columns, words):
    with pytest.raises(ValueError, match=r"train\.csv") as caught:
        read_chexpert(folder([row(1)], columns=columns, images=False))
    assert all(word in str(caught.value) for word in words)


def test_missing_files_are_counted_and_a_strict_reader_refuses(folder):
    root = folder([row(1), row(2), row(3)])
    (root / "train/patient00002/study1/view1_frontal.jpg").unlink()
    records, problems = read_chexpert(root)
    assert [r.patient for r in records] == ["patient00001", "patient00003"]
    assert problems.counts == {"missing file": 1}
    assert "patient00002" in problems.summary()
    with pytest.raises(ValueError, match="patient00002"):
        read_chexpert(root, strict=True)


def test_no_table_no_text_no_rows(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere/train\.csv cannot be read"):
        read_chexpert(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no usable row"):
        read_chexpert(folder([]))
    (tmp_path / "train.csv").write_bytes(b"\xff\x00P")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_chexpert(tmp_path)
    (tmp_path / "train.csv").write_bytes(",".join(COLUMNS).encode() + b'\n"' + b"a" * 200_000)
    with pytest.raises(ValueError, match=r"is not a CSV table .* ends at line 2"):
        read_chexpert(tmp_path)


def test_a_byte_order_mark_is_no_column_name(folder):
    root = folder([row(1)])
    path = root / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_chexpert(root)[0]) == 1


def test_corrupt_images_are_found_before_training(folder):
    root = folder([row(n) for n in range(1, 6)])
    places = [root / f"train/patient0000{n}/study1/view1_frontal.jpg" for n in (2, 4)]
    places[0].write_bytes(places[0].read_bytes()[:100])
    places[1].write_bytes(b"")
    records, problems = read_chexpert(root)
    assert not problems
    kept, corrupt = check_images(records)
    assert [r.patient[-1] for r in kept] == ["1", "3", "5"]
    assert corrupt.counts == {"corrupt image": 2}
    with pytest.raises(ValueError, match="patient00002"):
        check_images(records, strict=True)


def test_problems_keep_the_first_examples_and_the_whole_count():
    problems, other = Problems(examples=2), Problems(examples=2)
    for n in range(4):
        problems.add("missing file", f"file{n}")
    other.add("bad path", "x")
    problems.merge(other)
    assert problems.total == 5
    assert problems.summary() == "bad path: 1 (x). missing file: 4 (file0; file1 and 2 more)."


def test_phantoms_read_as_chexpert(phantom_root):
    records, problems = read_chexpert(phantom_root, frontal_only=False, strict=True)
    assert not problems
    assert len(records) > 24 + 2 * 4
    assert {r.frontal for r in records} == {True, False}
    assert all(len(r.markers) == 2 for r in records)


def test_without_the_side_table_there_are_no_markers(phantom_root, tmp_path):
    shutil.copytree(phantom_root, tmp_path / "x")
    (tmp_path / "x" / "markers.csv").unlink()
    assert all(r.markers == () and r.group == "" for r in read_chexpert(tmp_path / "x")[0])


def test_a_wrong_side_table_is_named(phantom_root, tmp_path):
    shutil.copytree(phantom_root, tmp_path / "x")
    (tmp_path / "x" / "markers.csv").write_text("Path,marker_1,marker_2,gruop\n")
    with pytest.raises(ValueError, match="misspelt as 'gruop'"):
        read_chexpert(tmp_path / "x")


def test_patients_are_never_split_and_order_does_not_matter(phantom_root):
    records, _ = read_chexpert(phantom_root)
    train, held = patient_split(records, 0.4, seed=1)
    assert not {r.patient for r in train} & {r.patient for r in held}
    assert len(train) + len(held) == len(records)
    backwards = patient_split(records[::-1], 0.4, seed=1)[1]
    assert sorted(backwards) == sorted(held)
    one_by_one = [r for r in records if patient_split([r], 0.4, seed=1)[1]]
    assert one_by_one == held
    assert patient_split(records, 0.4, seed=2)[1] != held
    with pytest.raises(ValueError, match=r"holdout_fraction is 1\.0"):
        patient_split(records, 1.0)


def test_the_held_out_share_is_as_asked(phantom_root):
    record = read_chexpert(phantom_root)[0][0]
    many = [record._replace(patient=f"patient{n}") for n in range(4000)]
    share = len(patient_split(many, 0.25)[1]) / 4000
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)

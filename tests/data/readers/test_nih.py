import numpy as np
import pytest

from memjax.data.images import load_image
from memjax.data.labels.space import BLANK, FINDINGS, NEGATIVE, POSITIVE
from memjax.data.readers.nih import COUNTERPART, WITHOUT_COUNTERPART, read_nih, states_of
from tests.data.readers.chest_folders import NIH_HEADER, NIH_ROWS, jpeg, put, write_lines, write_nih


def states(record):
    return dict(zip(FINDINGS, record.findings, strict=True))


def test_a_row_read_by_hand(tmp_path):
    records, problems = read_nih(write_nih(tmp_path), "train")
    assert not problems
    assert [r.patient for r in records] == ["00000001", "00000001", "00000002", "00000003"]
    second = records[1]
    assert second.path == f"{tmp_path}/images_002/images/00000001_001.png"
    assert second[1:7] == ("00000001", "study001", "PA", "Male", 58, True)
    found = states(second)
    assert found["Cardiomegaly"] == found["Pleural Effusion"] == POSITIVE
    assert found["Edema"] == found["No Finding"] == NEGATIVE
    assert {found[n] for n in ("Fracture", "Support Devices", "Lung Opacity")} == {BLANK}
    assert load_image(second.path, 8).shape == (8, 8, 1)


def test_every_label_of_the_table_has_its_place():
    assert len(COUNTERPART) + len(WITHOUT_COUNTERPART) == 15
    assert set(COUNTERPART.values()) <= set(FINDINGS)
    for label, name in COUNTERPART.items():
        assert states_of([label])[FINDINGS.index(name)] == POSITIVE


def test_labels_without_a_counterpart_leave_the_others(tmp_path):
    found = states(read_nih(write_nih(tmp_path), "train")[0][3])
    assert [name for name in FINDINGS if found[name] == POSITIVE] == ["Lung Opacity"]
    only = states_of(["Hernia"])
    assert POSITIVE not in only
    assert only[FINDINGS.index("No Finding")] == NEGATIVE


def test_two_labels_of_one_finding_and_a_normal_film(tmp_path):
    last = states(read_nih(write_nih(tmp_path), "test")[0][0])
    assert last["Lung Lesion"] == last["Pleural Other"] == POSITIVE
    normal = dict(zip(FINDINGS, states_of(["No Finding"]), strict=True))
    assert normal["No Finding"] == POSITIVE
    assert normal["Lung Opacity"] == NEGATIVE
    assert normal["Support Devices"] == BLANK


def test_the_lists_split_patients(tmp_path):
    root = write_nih(tmp_path)
    train, test = (read_nih(root, split)[0] for split in ("train", "test"))
    assert read_nih(root, "valid")[0] == test
    assert [r.patient for r in test] == ["00000004"]
    assert read_nih(root, "all")[0] == [*train, *test]
    (root / "test_list.txt").unlink()
    with pytest.raises(ValueError, match=r"test_list\.txt cannot be read .* 'all'"):
        read_nih(root, "test")
    with pytest.raises(ValueError, match=r"'tests'.*did you mean 'test'"):
        read_nih(root, "tests")


def test_the_first_release(tmp_path):
    """Ages in years, months and days; a comma at the end of the header; one folder of images."""
    ages = ("058Y", "010M", "005D", "414Y")
    rows = [f"{row.split(',')[0]},No Finding,0,{i},{age},M,PA,1,1,0.1,0.1" for i, (row, age) in
            enumerate(zip(("00000001_000.png", "00000002_000.png", "00000003_000.png",
                           "00000004_000.png"), ages, strict=True), start=1)]  # fmt: skip
    root = write_nih(tmp_path, rows, NIH_HEADER + ",", one_folder=True, table="Data_Entry_2017.csv")
    records, problems = read_nih(root, "all")
    assert [r.age for r in records] == [58, None, None, None]
    assert problems.counts == {"impossible age": 1}
    assert "row 5, column 'Patient Age': '414'" in problems.summary()
    assert records[0].path == f"{tmp_path}/images/00000001_000.png"


def test_the_newer_name_of_the_sex_column(tmp_path):
    header = NIH_HEADER.replace("Patient Gender", "Patient Sex")
    records, _ = read_nih(write_nih(tmp_path, header=header), "all")
    assert {r.sex for r in records} == {"Male", "Female"}


BAD = {
    "impossible value": (
        "00000009_000.png,Efusion,0,9,50,M,PA,1,1,0.1,0.1",
        "row 7, column 'Finding Labels': 'Efusion' (did you mean 'Effusion'?)",
    ),
    "contradictory labels": ("00000009_000.png,No Finding|Edema,0,9,50,M,PA,1,1,0.1,0.1", "row 7"),
    "bad path": ("../00000009_000.png,Edema,0,9,50,M,PA,1,1,0.1,0.1", "row 7: '../00000009"),
    "repeated path": (NIH_ROWS[0], "row 7: 00000001_000.png"),
    "wrong number of cells": ("00000009_000.png,Edema,0", "row 7: -8"),
    "missing file": ("00000009_000.png,Edema,0,9,50,M,PA,1,1,0.1,0.1", "00000009_000.png"),
    "impossible sex": ("00000009_000.png,Edema,0,9,50,X,PA,1,1,0.1,0.1", "'Patient Gender': 'X'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_counted_and_named(tmp_path, kind):
    line, where = BAD[kind]
    root = write_nih(tmp_path)
    with open(root / "Data_Entry_2017_v2020.csv", "a") as table:
        table.write(line + "\n")
    if kind == "impossible sex":
        (root / "images_001/images/00000009_000.png").write_bytes(b"")
    records, problems = read_nih(root, "all")
    assert problems.counts == {kind: 1}
    assert where in problems.summary()
    assert len(records) == 5 + (kind == "impossible sex")
    with pytest.raises(ValueError, match="has 1 problems"):
        read_nih(root, "all", strict=True)


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ("Edema,0,8,50,M,PA", "Patient ID"),
        ("Edema,first,9,50,M,PA", "Follow-up #"),
        ("Edema,0,9,50,M,LL", "View Position"),
    ],
)
def test_cells_that_cannot_be(tmp_path, cells, column):
    root = write_nih(tmp_path, [*NIH_ROWS, f"00000009_000.png,{cells},1,1,0.1,0.1"])
    records, problems = read_nih(root, "all")
    assert problems.counts == {"impossible value": 1}
    assert f"row 7, column '{column}'" in problems.summary()
    assert len(records) == 5


def test_a_listed_image_without_a_row_is_counted(tmp_path):
    root = write_nih(tmp_path)
    with open(root / "train_val_list.txt", "a") as names:
        names.write("00000077_000.png\n")
    assert read_nih(root, "train")[1].counts == {"listed without a row": 1}


def test_ids_fit_the_pipeline(tmp_path):
    from memjax.data.records import chexpert_label_space, encode_records

    records, _ = read_nih(write_nih(tmp_path), "all")
    ids = encode_records(records, chexpert_label_space())
    assert ids.min() >= 1
    assert ids.dtype == np.int32


FOLDERS = ("images", "images_001", "images_01/images", "images-224/images-224", "images_001/images")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_that_people_unpack_into(tmp_path, folder):
    root = write_nih(tmp_path, one_folder=True)
    (root / "images").rename(root / "first")
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "first").rename(root / folder)
    records, problems = read_nih(root, "all", strict=True)
    assert not problems
    assert {r.path.rpartition("/")[0] for r in records} == {f"{root}/{folder}"}


def test_films_turned_into_jpeg_are_found_and_png_comes_first(tmp_path):
    root = write_nih(tmp_path, one_folder=True)
    for path in (root / "images").iterdir():
        (root / "images" / f"{path.stem}.jpg").write_bytes(path.read_bytes())
    (root / "images/00000001_000.png").unlink()
    records, problems = read_nih(root, "all", strict=True)
    assert [r.path[-4:] for r in records] == [".jpg", ".png", ".png", ".png", ".png"]
    assert problems.notes == {"found as .jpg, where the table says .png": 1}


def test_the_sample_that_goes_about_by_itself(tmp_path):
    header = NIH_HEADER.replace("OriginalImage[Width,Height]", "OriginalImageWidth,Height")
    rows = [row.replace(",57,", ",057Y,") for row in NIH_ROWS]
    root = write_nih(tmp_path, rows, header, one_folder=True, table="sample_labels.csv")
    records, problems = read_nih(root, "all", strict=True)
    assert not problems
    assert records[0].age == 57


def test_an_index_rewritten_to_a_path(tmp_path):
    rows = [f"/data/images_001/images/{NIH_ROWS[0]}", NIH_ROWS[1]]
    root = write_nih(tmp_path, rows[1:])
    put(root / "images/00000001_000.png", jpeg(kind="PNG"))
    write_lines(root / "Data_Entry_2017_v2020.csv", NIH_HEADER, *rows)
    records, problems = read_nih(root, "all", strict=True)
    assert not problems
    assert records[0].path == f"{root}/images/00000001_000.png"


def test_labels_in_another_spelling(tmp_path):
    rows = [NIH_ROWS[-1].replace("Pleural_Thickening", "Pleural thickening"), NIH_ROWS[0]]
    root = write_nih(tmp_path, rows)
    assert states(read_nih(root, "all", strict=True)[0][0])["Pleural Other"] == POSITIVE

"""CheXpert as people have it: other tables, other labelers, rewritten paths, PNG, the test set."""

import csv
import json

import pytest

from memjax.data.labels.space import FINDINGS
from memjax.data.readers.chexpert import COLUMNS, read_chexpert
from memjax.data.readers.kinds import read_kind
from memjax.data.records import BLANK, NEGATIVE, POSITIVE, UNCERTAIN
from tests.data.readers.chest_folders import chexpert_row, jpeg, put, write_chexpert

IMAGE = "train/patient00001/study1/view1_frontal.jpg"
EDEMA = FINDINGS.index("Edema")


def table(path, columns, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def labels(**changes):
    return dict.fromkeys(FINDINGS, "0") | changes


def test_extra_and_index_columns_are_named_and_the_rest_is_read(tmp_path):
    row = chexpert_row(1, Edema="1.0") | {"": "0", "Hospital": "north"}
    table(tmp_path / "train.csv", ["", *COLUMNS, "Hospital"], row)
    put(tmp_path / IMAGE, jpeg())
    records, problems = read_chexpert(tmp_path, strict=True)
    assert records[0].findings[EDEMA] == POSITIVE
    assert problems.notes == {
        "read without a column of train.csv: one without a name": 1,
        "read without a column of train.csv: Hospital": 1,
    }


@pytest.mark.parametrize(
    "path",
    [
        "{root}/train/patient00001/study1/view1_frontal.jpg",
        "train/patient00001/study1/view1_frontal.jpg",
        "./train/patient00001/study1/view1_frontal.jpg",
        "patient00001/study1/view1_frontal.jpg",
        "/elsewhere/CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
        "D:\\CheXpert\\train\\patient00001\\study1\\view1_frontal.jpg",
        "chexpert/images/train/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg",
    ],
)
def test_rewritten_paths_find_the_image(tmp_path, path):
    table(tmp_path / "train.csv", COLUMNS, chexpert_row(1, Path=path.format(root=tmp_path)))
    put(tmp_path / IMAGE, jpeg())
    records, problems = read_chexpert(tmp_path, strict=True)
    assert not problems
    assert [record.path for record in records] == [f"{tmp_path}/{IMAGE}"]


def test_the_folder_around_the_release_is_a_root_too(tmp_path):
    write_chexpert(tmp_path / "CheXpert-v1.0-small", [chexpert_row(1)])
    records, _ = read_chexpert(tmp_path, strict=True)
    assert [r.path for r in records] == [f"{tmp_path}/CheXpert-v1.0-small/{IMAGE}"]


def test_a_root_behind_a_link_and_tables_put_one_after_the_other(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    write_chexpert(real, [chexpert_row(n) for n in (1, 2)])
    link.symlink_to(real)
    header, first, second = (real / "train.csv").read_text().splitlines()
    absolute = second.replace("CheXpert-v1.0-small", str(real))
    (real / "train.csv").write_text("\n".join([header, first, header, absolute, ""]))
    records, problems = read_chexpert(link)
    assert [r.path for r in records] == [
        f"{link}/train/patient0000{n}/study1/view1_frontal.jpg" for n in (1, 2)
    ]
    assert problems.counts == {"bad path": 1}
    assert "row 3: 'Path'" in problems.summary()


def test_a_relative_root_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "d/train.csv", COLUMNS, chexpert_row(1, Path=f"{tmp_path}/d/{IMAGE}"))
    put(tmp_path / "d" / IMAGE, jpeg())
    assert [r.path for r in read_chexpert("d", strict=True)[0]] == [f"d/{IMAGE}"]


def test_images_converted_to_png_are_found_and_counted(tmp_path):
    table(tmp_path / "train.csv", COLUMNS, chexpert_row(1))
    put(tmp_path / IMAGE.replace(".jpg", ".png"), jpeg(kind="PNG"))
    records, problems = read_chexpert(tmp_path, strict=True)
    assert records[0].path.endswith("/view1_frontal.png")
    assert problems.notes == {"found as .png, where the table says .jpg": 1}


def settings(root, **changes):
    plain = {"root": str(root), "frontal_only": True, "held_out_fraction": 0.0, "seed": 0}
    return {**plain, **changes}


def test_labels_of_chexbert_are_chosen_by_name(tmp_path):
    root = write_chexpert(tmp_path, [chexpert_row(1, Edema="1.0")])
    for name, state in (("cheXbert", "-1.0"), ("visualCheXbert", "0.0")):
        table(root / f"train_{name}.csv", COLUMNS, chexpert_row(1, Edema=state))

    def edema(**changes):
        read = read_kind(tmp_path, "chexpert", settings(root, **changes))
        return read.train[0].findings[EDEMA], read.problems.notes

    assert edema() == edema(labels="")
    assert edema() == (
        POSITIVE,
        {
            "read without the table train_cheXbert.csv": 1,
            "read without the table train_visualCheXbert.csv": 1,
        },
    )
    assert edema(labels="cheXbert") == (
        UNCERTAIN,
        {
            "labeled by train_cheXbert.csv": 1,
            "read without the table train.csv": 1,
            "read without the table train_visualCheXbert.csv": 1,
        },
    )
    assert edema(labels="visualCheXbert")[0] == NEGATIVE
    (root / "train.csv").unlink()
    assert edema()[0] == UNCERTAIN
    with pytest.raises(ValueError, match=r"'chexbert' \(did you mean 'cheXbert'\?\); expected one"):
        edema(labels="chexbert")
    (root / "train_visualCheXbert.csv").unlink()
    with pytest.raises(ValueError, match=r"train_visualCheXbert\.csv cannot be read"):
        edema(labels="visualCheXbert")


def localize(root, folder="val"):
    """CheXlocalize: radiologists' labels of both sets, without view, sex and age."""
    rows = [
        {"Path": f"CheXpert-v1.0/test/patient64741/study1/{name}.jpg", **labels(Edema="1")}
        for name in ("view1_frontal", "view2_lateral")
    ]
    table(root / "test_labels.csv", ["Path", *FINDINGS], *rows)
    place = "patient64541/study1/view1_frontal.jpg"
    table(
        root / "val_labels.csv",
        ["Path", *FINDINGS],
        {"Path": f"CheXpert-v1.0/valid/{place}", **labels()},
    )
    put(root / folder / place, jpeg())
    for row in rows:
        put(root / row["Path"].split("/", 1)[1], jpeg())
    return root


@pytest.mark.parametrize("folder", ["val", "valid"])
def test_labels_of_the_test_and_validation_set_alone(tmp_path, folder):
    root = localize(tmp_path, folder)
    test, problems = read_chexpert(root, "test", strict=True)
    assert not problems
    assert [(r.patient, r.view, r.sex, r.age, r.frontal) for r in test] == [
        ("patient64741", "", "", None, True)
    ]
    assert test[0].findings[EDEMA] == POSITIVE
    assert len(read_chexpert(root, "test", frontal_only=False)[0]) == 2
    (valid,) = read_chexpert(root, "valid", strict=True)[0]
    assert valid.path == f"{root}/{folder}/patient64541/study1/view1_frontal.jpg"


def test_the_test_set_is_held_out(tmp_path):
    root = write_chexpert(localize(tmp_path))
    read = read_kind(tmp_path, "chexpert", settings(root))
    assert [r.patient for r in read.train] == ["patient00001", "patient00002"]
    assert [r.patient for r in read.held_out] == ["patient64541", "patient64741"]


def test_labels_of_a_test_set_without_its_images_are_counted(tmp_path):
    root = write_chexpert(tmp_path)
    table(root / "groundtruth.csv", ["Study", *FINDINGS], {"Study": "x/test/patient1/study1"})
    read = read_kind(tmp_path, "chexpert", settings(root))
    assert (len(read.train), read.held_out) == (2, [])
    assert read.problems.counts == {"test set that cannot be read": 1}
    assert "study without images: 1" in read.problems.summary()


def test_labels_of_studies_become_those_of_their_images(tmp_path):
    rows = [
        {"Study": f"CheXpert-v1.0/test/patient{number}/study1", **labels(Edema="1")}
        for number in (64741, 64742)
    ]
    table(tmp_path / "groundtruth.csv", ["Study", *FINDINGS], *rows)
    for name in ("view1_frontal.jpg", "view2_lateral.jpg", "note.txt"):
        put(tmp_path / "test/patient64741/study1" / name, jpeg())
    records, problems = read_chexpert(tmp_path, "test", frontal_only=False)
    assert [r.path.rsplit("/", 1)[-1] for r in records] == [
        "view1_frontal.jpg",
        "view2_lateral.jpg",
    ]
    assert [r.frontal for r in records] == [True, False]
    assert problems.counts == {"study without images": 1}
    assert "patient64742" in problems.summary()


PLUS = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id"),
    *("patient_report_date_order", "report", "section_impression", "age", "sex", "race", "split"),
)


def plus(root, below="PNG", **changes):
    """CheXpert Plus: the table says .jpg, the files are PNG, labels lie in another file."""
    rows = []
    for split, number, side in (
        ("train", "patient42142", "Frontal"),
        ("train", "patient42143", "Lateral"),
        ("valid", "patient64541", "Frontal"),
    ):
        place = f"{split}/{number}/study5/view1_{side.lower()}.jpg"
        rows.append(
            {
                "path_to_image": place,
                "frontal_lateral": side,
                "ap_pa": "AP" if side == "Frontal" else "",
                "deid_patient_id": number,
                "report": 'NARRATIVE:\nChest, 1 view, "portable"\n',
                "age": "61.0",
                "sex": "Female",
                "split": split,
                **changes,
            }
        )
        put(root / below / place.replace(".jpg", ".png"), jpeg(kind="PNG"))
    table(root / "df_chexpert_plus_240401.csv", PLUS, *rows)
    sections = {"impression": 1.0, "findings": -1.0}
    for section, state in sections.items():
        lines = [
            json.dumps(
                {"path_to_image": row["path_to_image"], **dict.fromkeys(FINDINGS), "Edema": state}
            )
            for row in rows
        ]
        put(root / f"chexbert_labels/{section}_fixed.json", ("\n".join(lines) + "\n").encode())
    return root


@pytest.mark.parametrize("below", ["", "PNG", "PNG/PNG"])
def test_chexpert_plus_as_published(tmp_path, below):
    root = plus(tmp_path, below)
    train, problems = read_chexpert(root, strict=True)
    (record,) = train
    assert record.path.endswith(f"{below}/train/patient42142/study5/view1_frontal.png")
    assert record[1:7] == ("patient42142", "study5", "AP", "Female", 61, True)
    assert record.findings[EDEMA] == POSITIVE
    assert record.findings.count(BLANK) == len(FINDINGS) - 1
    assert problems.notes == {
        "found as .png, where the table says .jpg": 1,
        "labeled by impression_fixed.json": 1,
    }
    assert [r.patient for r in read_chexpert(root, "valid", strict=True)[0]] == ["patient64541"]
    other, _ = read_chexpert(root, labels="findings", strict=True)
    assert other[0].findings[EDEMA] == UNCERTAIN
    read = read_kind(tmp_path, "chexpert", settings(root))
    assert (len(read.train), len(read.held_out)) == (1, 1)


def test_chexpert_plus_without_its_labels_says_where_they_are(tmp_path):
    root = plus(tmp_path)
    with pytest.raises(ValueError, match=r"report_fixed\.json is not there.*chexbert_labels"):
        read_chexpert(root, labels="report")
    file = root / "chexbert_labels/impression_fixed.json"
    file.write_text('{"path_to_image": "x"}\n[' + "9" * 5000 + "]\n" + "[" * 20000 + "\n")
    with pytest.raises(ValueError, match=r"line without labels: 3 .*no labels: 2") as caught:
        read_chexpert(root)
    assert len(str(caught.value)) < 1500

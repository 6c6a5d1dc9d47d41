"""Folders as others made them: layouts, names, and entries that are no files."""

import json
import os
import unicodedata

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from memjax.data.file_tree import file_tree
from memjax.data.readers.folder import read_folder
from memjax.studies.copies.folders import image_folder


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 16 + value, np.uint8)).save(path)
    return path


def spoil(root):
    """One of each entry that is no image, and what is said of it."""
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    (root / "none.jpg").write_bytes(b"")
    (root / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "._1.png").write_bytes(b"\0\5\x16\7Mac OS X")
    (root / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (root / "LICENSE").write_text("free")
    os.mkfifo(root / "pipe")
    picture(root / "__MACOSX" / "._2.png"), picture(root / ".cache" / "3.png")
    return {
        "link to nothing": ["gone.png"],
        "link that leads to itself": ["loop.png"],
        "not a regular file": ["pipe", "pipe.png"],
        "empty file": ["none.jpg"],
        "image of a kind that is not read": ["phone.HEIC"],
    }, {
        "hidden": ["._1.png", ".cache", "__MACOSX/._2.png"],
        ".db": ["Thumbs.db"],
        "without a suffix": ["LICENSE"],
    }


def classes(root):
    return [picture(root / "cat" / "1.png"), picture(root / "dog" / "2.png", 1)]


def beside(root):
    paths = [picture(root / "1.png"), picture(root / "2.png", 1)]
    for path in paths:
        path.with_suffix(".txt").write_text("a dog")
    return paths


def table(root):
    paths = [picture(root / "images" / "1.png"), picture(root / "images" / "2.png", 1)]
    rows = [{"file_name": f"images/{p.name}", "text": "a dog"} for p in paths]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return paths


@pytest.mark.parametrize("layout", [classes, beside, table])
def test_one_bad_entry_is_left_out_counted_and_named_in_every_layout(tmp_path, layout):
    good = layout(tmp_path)
    wrong, unread = spoil(tmp_path)
    train, _, problems = read_folder(tmp_path)
    assert [r.path for r in train] == [str(path) for path in good]
    assert problems.examples == wrong
    assert problems.unread_examples == unread
    assert problems.passed_over().startswith("1 .db (Thumbs.db), 3 hidden (")
    with pytest.raises(ValueError, match=r"link to nothing: 1 \(gone\.png\)"):
        read_folder(tmp_path, strict=True)


def test_copies_lists_a_folder_by_the_same_rules(tmp_path):
    classes(tmp_path), picture(tmp_path / "scan.TIF"), picture(tmp_path / "cat" / "x.jfif")
    wrong, unread = spoil(tmp_path)
    train, _, problems = read_folder(tmp_path)
    listed = image_folder("training", tmp_path)
    assert [listed.path(i) for i in range(len(listed.places))] == [r.path for r in train]
    assert len(train) == 4
    assert listed.wrong == {place: why for why, places in wrong.items() for place in places}
    assert sorted(listed.unread) == sorted(p for places in unread.values() for p in places)
    assert problems.examples == wrong


def test_a_folder_of_other_things_names_them(tmp_path):
    (tmp_path / "0000.tar").write_bytes(b"x"), (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=r"holds no images; .*image of a kind that is not read: 1 \(a\.heic\)\. "
        r"Not read: 1 \.tar \(0000\.tar\)\.",
    ):
        read_folder(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_is_no_folder_is_named(tmp_path, kind):
    root = tmp_path / "data"
    if kind == "file":
        root.write_text("")
    said = "does not exist" if kind == "missing" else "is a file"
    with pytest.raises(ValueError, match=rf"/data {said}; expected a folder of images"):
        read_folder(root)


def test_what_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    good = beside(tmp_path)
    refused = {str(picture(tmp_path / "3.png", 2)), str(good[0].with_suffix(".txt"))}
    (tmp_path / "3.txt").write_text("a cat")

    def opened(path):
        if str(path) in refused:
            raise PermissionError(13, "Permission denied", path)
        return open(path, "rb")

    monkeypatch.setattr("memjax.data.file_tree.open_binary", opened)
    monkeypatch.setattr("memjax.data.readers.folder.open_binary", opened)
    train, held, problems = read_folder(tmp_path, held_out_fraction=0.01)
    assert [r.patient for r in train + held] == ["2.png"]
    assert problems.examples == {
        "file that cannot be read": ["1.txt (Permission denied)", "3.png (Permission denied)"]
    }


def test_names_that_no_report_can_hold(tmp_path):
    classes(tmp_path)
    for name in (b"caf\xe9.png", b"caf\xe9"):
        place = os.path.join(os.fsencode(tmp_path), b"cat", name)
        if name.endswith(b"png"):
            with open(place, "wb") as file:
                file.write((tmp_path / "cat" / "1.png").read_bytes())
        else:
            os.mkdir(place)
    (tmp_path / "cat" / "two\nlines.png").write_bytes(b"")
    train, _, problems = read_folder(tmp_path)
    assert len(train) == 2
    assert problems.summary() == (
        "empty file: 1 (cat/two\\nlines.png). "
        "file name that is not UTF-8: 2 (cat/caf\\xe9; cat/caf\\xe9.png)."
    )


def test_a_caption_has_a_bound(tmp_path):
    paths = beside(tmp_path)
    paths[0].with_suffix(".txt").write_bytes(b"a" * (1 << 20))
    paths[1].with_suffix(".txt").write_bytes(b"a" * ((1 << 20) + 1))
    train, _, problems = read_folder(tmp_path)
    assert len(train) == 1
    assert problems.examples == {"caption of more than 1 MiB": ["2.txt"]}


def test_links_to_folders_and_real_folders_first(tmp_path):
    picture(tmp_path / "z" / "1.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "again").symlink_to(tmp_path / "z")
    outside = picture(tmp_path.parent / f"{tmp_path.name}-outside" / "2.png").parent
    (tmp_path / "b").symlink_to(outside)
    tree = file_tree(str(tmp_path))
    assert tree.images == ("b/2.png", "z/1.png")
    assert tree.passed == {"a/again/": "folder that a link names again"}


ROWS = [{"image": "1.png", "prompt": "one"}, {"image": "2.png", "prompt": "two"}]


def as_jsonl(path, rows):
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def as_csv(path, rows):
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (path / "metadata.csv").write_text("\n".join(lines))


def as_parquet(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    table = table.append_column("embedding", [[{"x": 1.0}]] * len(rows))
    parquet.write_table(table, path / "metadata.parquet")


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet])
@pytest.mark.parametrize(("file", "text"), [
    ("file_name", "text"), ("image", "prompt"), ("file_name", "caption"), ("filename", "prompt"),
])  # fmt: skip
@pytest.mark.parametrize("folder", ["", "images"])
def test_hugging_face_tables(tmp_path, write, file, text, folder):
    for number in (1, 2):
        picture(tmp_path / folder / f"{number}.png", number)
    inner = f"{folder}/" if folder else ""
    write(tmp_path, [{file: inner + r["image"], text: r["prompt"]} for r in ROWS])
    train, _, problems = read_folder(tmp_path)
    assert [(r.patient, r.caption) for r in train] == [
        (f"{inner}1.png", "one"),
        (f"{inner}2.png", "two"),
    ]
    assert not problems
    assert not problems.unread


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet])
def test_each_part_with_its_table(tmp_path, write):
    for number, part in enumerate(("train", "validation", "test")):
        for each in (1, 2):
            picture(tmp_path / part / f"{each}.png", 10 * number + each)
        write(tmp_path / part, ROWS)
    train, held, problems = read_folder(tmp_path)
    assert not problems
    assert [r.patient for r in train] == ["train/1.png", "train/2.png"]
    assert [r.patient.split("/")[0] for r in held] == ["test"] * 2 + ["validation"] * 2


def test_fields_of_parquet(tmp_path):
    for number in (1, 2, 3):
        picture(tmp_path / f"{number}.png", number)
    parquet.write_table(
        pyarrow.table({
            "file_name": ["1.png", "2.png", "3.png"],
            "text": [["one dog", "a dog"], None, ["three"]],
            "digit": pyarrow.array([3, 4, None]),
            "repeats": [2, 1, 1],
        }),
        tmp_path / "metadata.parquet",
    )  # fmt: skip
    train, _, problems = read_folder(tmp_path, class_fields=("digit",))
    assert not problems
    assert [(r.caption, r.captions, r.classes, r.repeats) for r in train] == [
        ("one dog", ("one dog", "a dog"), (("Digit", "3"),), 2),
        ("", (), (("Digit", "4"),), 1),
        ("three", (), (), 1),
    ]


def test_images_inside_a_parquet_table_are_refused(tmp_path):
    picture(tmp_path / "1.png")
    table = pyarrow.table({"image": [{"bytes": b"x", "path": "1.png"}], "text": ["one"]})
    parquet.write_table(table, tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match=r"has no column of file names, only \['image', 'text'\]"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "line", ['{"file_name": 1' + "0" * 5000 + "}", "[" * 20_000 + "]" * 20_000]
)
def test_a_line_that_python_refuses_is_counted(tmp_path, line):
    table(tmp_path)
    with open(tmp_path / "metadata.jsonl", "a") as file:
        file.write("\n" + line)
    train, _, problems = read_folder(tmp_path)
    assert len(train) == 2
    assert problems.counts == {"line is not JSON": 1}
    assert problems.examples["line is not JSON"][0].startswith("metadata.jsonl line 3 (")


def test_an_absolute_path_below_the_root(tmp_path):
    path = picture(tmp_path / "images" / "1.png")
    as_jsonl(tmp_path, [{"image": str(path), "prompt": "one"}])
    assert [r.patient for r in read_folder(tmp_path)[0]] == ["images/1.png"]


@pytest.mark.parametrize(("of_file", "of_table"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("name", ["café.png", "Ångström/한글.png", "1.PNG"])
def test_names_of_another_form(tmp_path, of_file, of_table, name):
    stored = unicodedata.normalize(of_file, name)
    asked = unicodedata.normalize(of_table, name).replace("PNG", "png")
    picture(tmp_path / stored)
    as_jsonl(tmp_path, [{"file_name": asked, "text": "one"}])
    train, _, problems = read_folder(tmp_path)
    assert [r.patient for r in train] == [stored]
    assert not problems
    assert problems.notes == {"found under a name of another case or Unicode form": 1}
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / asked).with_suffix(".TXT" if "1" in name else ".txt").parent.mkdir(exist_ok=True)
    (tmp_path / asked).with_suffix(".TXT" if "1" in name else ".txt").write_text("beside")
    assert [r.caption for r in read_folder(tmp_path)[0]] == ["beside"]


def test_a_name_that_fits_two_files_fits_none(tmp_path):
    picture(tmp_path / "A.png"), picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    rows = [{"file_name": name, "text": "one"} for name in ("a.png", "A.PNG", "b.png")]
    as_jsonl(tmp_path, rows)
    train, _, problems = read_folder(tmp_path)
    assert [r.patient for r in train] == ["a.png", "b.png"]
    assert problems.examples == {
        "missing file": ["metadata.jsonl line 2: A.PNG"],
        "image that no table names": ["A.png"],
    }


def test_kohya_folders(tmp_path):
    for number, place in enumerate(("10_sks dog/1.png", "10_sks dog/2.jpg", "2_dog/3.png")):
        picture(tmp_path / "img" / place, number)
    (tmp_path / "img" / "10_sks dog" / "1.txt").write_text("sks dog, grass")
    (tmp_path / "img" / "10_sks dog" / "2.caption").write_text("sks dog, beach")
    (tmp_path / "img" / "10_sks dog" / "1.npz").write_bytes(b"latents")
    train, _, problems = read_folder(tmp_path)
    assert [(r.caption, r.repeats, r.classes) for r in train] == [
        ("sks dog, grass", 10, ()),
        ("sks dog, beach", 10, ()),
        ("dog", 2, ()),
    ]
    assert problems.noted() == (
        "1 captioned by the name of the folder, "
        "2 meant 10 times (fine_tune.memorized=repeats obeys that), "
        "1 meant 2 times (fine_tune.memorized=repeats obeys that)"
    )
    assert problems.unread == {".npz": 1}


def test_kohya_folders_beside_others(tmp_path):
    """What kohya's window writes beside them, and a folder named by a year."""
    places = ("img/30_cat/1.png", "reg/1_cat/2.png", "2019_trip/3.png", "model/sample/4.png")
    for number, place in enumerate(places):
        picture(tmp_path / place, number)
    for place in ("img/30_cat/1.txt", "2019_trip/3.txt"):
        (tmp_path / place).write_text("a cat")
    train, _, problems = read_folder(tmp_path)
    assert {r.patient: (r.caption, r.repeats) for r in train} == {
        "2019_trip/3.png": ("a cat", 1),
        "img/30_cat/1.png": ("a cat", 30),
        "reg/1_cat/2.png": ("cat", 1),
    }
    assert problems.examples == {"image without caption": [
        "model/sample/4.png (no model/sample/4.txt)"]}  # fmt: skip
    assert problems.notes["read from a regularization folder like any other"] == 1


def test_a_linked_image_has_the_class_of_the_link(tmp_path):
    other = picture(tmp_path / "others" / "1.png")
    (tmp_path / "abnormal").mkdir()
    (tmp_path / "abnormal" / "1.png").symlink_to(other)
    assert [r.classes[0][1] for r in read_folder(tmp_path)[0]] == ["abnormal", "others"]


def test_a_word_in_a_file_name_is_no_part(tmp_path):
    for number, name in enumerate(("photo of a train", "photo of test tubes", "a dog")):
        picture(tmp_path / f"{name}.png", number)
        (tmp_path / f"{name}.txt").write_text(name)
    train, held, _ = read_folder(tmp_path)
    assert (len(train), len(held)) == (3, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_classes_are_no_repeats(tmp_path, first):
    for number, name in enumerate(("normal", "pneumonia", "other"), start=first):
        picture(tmp_path / f"{number}_{name}" / "1.png", number)
    train, _, problems = read_folder(tmp_path)
    assert [r.classes[0][1] for r in train] == [
        f"{first}_normal", f"{first + 1}_pneumonia", f"{first + 2}_other",
    ]  # fmt: skip
    assert {r.repeats for r in train} == {1}
    assert not problems.notes


PARTS = {
    "images/train/1.png images/val/2.png": ("", ""),
    "images/train/cat/1.png images/val/cat/2.png": ("cat", "cat"),
    "cat/train/1.png cat/test/2.png": ("cat", "cat"),
    "training/cat/1.png testing/cat/2.png": ("cat", "cat"),
}


@pytest.mark.parametrize("places", PARTS)
def test_parts_below_other_folders_are_held_out(tmp_path, places):
    for number, place in enumerate(places.split()):
        picture(tmp_path / place, number)
    train, held, _ = read_folder(tmp_path)
    assert [r.patient for r in train] == [places.split()[0]]
    assert [r.patient for r in held] == [places.split()[1]]
    if PARTS[places][0]:
        assert [r.classes for r in train + held] == [(("Class", "cat"),)] * 2


def test_a_class_named_train_is_a_class(tmp_path):
    for number, name in enumerate(("bus", "car", "train")):
        picture(tmp_path / name / "1.png", number)
    assert [r.classes for r in read_folder(tmp_path)[0]] == [
        (("Class", name),) for name in ("bus", "car", "train")
    ]

"""Folders of images: three layouts, one record type, a split that duplicates never straddle."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from memjax.data.file_tree import content_key, file_tree
from memjax.data.images import load_image
from memjax.data.labels.of_data import class_slots, label_space_of
from memjax.data.labels.words import vocabulary_of, word_slots, words_of
from memjax.data.readers.folder import read_folder
from memjax.data.records import encode_records, image_record, labels_of

SETTINGS = {
    "findings": (), "num_markers": 0, "age_bin": 5, "use_view": True, "use_sex": True,
    "use_age": True, "max_words": 4, "vocabulary_size": 5,
}  # fmt: skip


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return path


def captioned(root, captions):
    for number, text in enumerate(captions):
        picture(root / f"{number:04d}.png", number)
        (root / f"{number:04d}.txt").write_text(text)
    return root


def test_captions_beside_images(tmp_path):
    captioned(tmp_path, ["A red dog.", "two\nblue  cats"])
    for suffix in ("jpg", "jpeg", "webp", "bmp", "PNG"):
        picture(tmp_path / "deep" / f"x.{suffix}", 9)
    (tmp_path / "deep" / "x.txt").write_text("\ufeffnine")
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / ".hidden" / "z.png")
    train, held, problems = read_folder(tmp_path)
    assert held == []
    assert not problems
    assert [r.caption for r in train] == ["A red dog.", "two blue cats", *["nine"] * 5]
    assert load_image(train[1].path, 8, 3)[0, 0].tolist() == [1, 1, 1]
    assert train[0].patient == "0000.png"


def test_metadata_with_class_fields(tmp_path):
    picture(tmp_path / "a" / "1.png"), picture(tmp_path / "2.jpg")
    rows = [
        {"file_name": "a/1.png", "text": "one", "hair_colour": "red", "digit": 3},
        {"file_name": "2.jpg", "text": "two \u2028 three", "digit": 10},
    ]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(text)
    train, _, problems = read_folder(tmp_path, class_fields=("hair_colour", "digit"))
    assert not problems
    assert [(r.patient, r.caption, r.classes) for r in train] == [
        ("2.jpg", "two three", (("Digit", "10"),)),
        ("a/1.png", "one", (("Hair colour", "red"), ("Digit", "3"))),
    ]
    space = label_space_of(train, "folder", SETTINGS)
    assert [slot.name for slot in space.slots] == ["Digit", "Hair colour", "Word 1", "Word 2"]
    assert space.slots[0].values == ("3", "10")  # by size, and no "unknown": none lacks it
    assert space.slots[1].values == ("red", "unknown")
    assert space.describe_ids(encode_records(train, space)[0])[:2] == [
        "Digit: 10",
        "Hair colour: unknown",
    ]


def test_sub_folders_are_classes_and_valid_is_held_out(tmp_path):
    for place in ("train/cat/1.png", "train/dog/deep/2.png", "valid/cat/3.png", "test/dog/4.png"):
        picture(tmp_path / place, int(place[-5]))
    train, held, _ = read_folder(tmp_path)
    assert [r.classes for r in train] == [(("Class", "cat"),), (("Class", "dog"),)]
    assert [r.classes for r in held] == [(("Class", "dog"),), (("Class", "cat"),)]
    space = label_space_of(train, "folder", SETTINGS, held)
    assert [(s.name, s.values) for s in space.slots] == [("Class", ("cat", "dog"))]
    assert space.findings == ()
    with pytest.raises(ValueError, match=r"'Class' .*|The label 'Edema' is not known .*'Class'"):
        space.encode({"Edema": 1})


def test_a_metadata_file_in_each_part(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "1.png", len(part) + (part == "train"))
        (tmp_path / part / "metadata.jsonl").write_text(
            json.dumps({"file_name": "1.png", "text": part}) + "\n"
        )
    train, held, _ = read_folder(tmp_path)
    assert [r.caption for r in train] == ["train"]
    assert [r.caption for r in held] == ["valid"]


@pytest.mark.parametrize("seed", [0, 1])
def test_copies_are_on_one_side_of_the_split(tmp_path, seed):
    captioned(tmp_path, [f"image {i}" for i in range(40)])
    for i in range(40):
        for copy in ("b", "c"):
            shutil.copy(tmp_path / f"{i:04d}.png", tmp_path / f"{copy}{i:04d}.png")
            (tmp_path / f"{copy}{i:04d}.txt").write_text("a copy")
    train, held, _ = read_folder(tmp_path, held_out_fraction=0.3, seed=seed)
    sides = [{content_key(r.path) for r in part} for part in (train, held)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert 3 * 4 <= len(held) <= 3 * 22  # 12 of 40 expected; 4 and 22 are three sigmas away
    again, _, _ = read_folder(tmp_path, held_out_fraction=0.3, seed=seed)
    assert again == train


def test_a_held_out_copy_of_a_training_image_is_left_out(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png", 3)
    picture(tmp_path / "valid" / "cat" / "same.png", 3)
    picture(tmp_path / "valid" / "cat" / "other.png", 4)
    train, held, problems = read_folder(tmp_path)
    assert [r.patient for r in train] == ["train/cat/1.png"]
    assert [r.patient for r in held] == ["valid/cat/other.png"]
    assert problems.counts == {"held-out copy of a training image": 1}


def test_files_of_different_ends_have_different_keys(tmp_path):
    big = bytes(1 << 20)
    for name, content in (("a", big), ("b", big + b"x"), ("c", big[:-1] + b"x"), ("d", big)):
        (tmp_path / name).write_bytes(content)
    keys = [content_key(str(tmp_path / name)) for name in "abcd"]
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3


def test_a_linked_folder_is_followed_once(tmp_path):
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    tree = file_tree(str(tmp_path))
    assert tree.images == ("a/1.png",)
    assert tree.passed == dict.fromkeys(("b/", "a/loop/"), "folder that a link names again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red dog, running!", ["a", "red", "dog", "running"]),
        ("the dog's ball", ["the", "dogs", "ball"]),
        ("snake_case 3.5 (none)", ["snake", "case", "3", "5", "none"]),
        ("ÉCOLE ﬁne", ["école", "fine"]),
        ("…", []),
    ],
)
def test_words_have_no_punctuation(text, words):
    assert words_of(text) == words


def test_the_vocabulary_is_the_most_frequent_words():
    assert vocabulary_of(["b a", "a c", "b d"], 3) == ("a", "b", "c")  # ties by letters
    for wrong in ({"max_words": 0, "vocabulary_size": 3}, {"max_words": 3, "vocabulary_size": 0}):
        with pytest.raises(ValueError, match=r"is 0; expected at least 1 word"):
            word_slots(["a"], **wrong)


def test_a_caption_becomes_words_that_share_a_table(tmp_path, caplog):
    captioned(tmp_path, ["a red dog", "a red cat", "a blue dog runs home today"])
    train, _, _ = read_folder(tmp_path)
    with caplog.at_level("INFO", "memjax.data"):
        space = label_space_of(train, "folder", SETTINGS)
    said = "1 of 3 captions are longer than data.max_words=4 words; the rest is not read."
    assert [r.getMessage() for r in caplog.records] == [said]
    assert [slot.name for slot in space.slots] == ["Word 1", "Word 2", "Word 3", "Word 4"]
    assert space.tables == ("words",) * 4
    assert space.slots[0].values == ("a", "dog", "red", "blue", "cat", "(other)", "(none)")
    ids = encode_records(train, space)
    assert space.describe_ids(ids[0]) == [
        "Word 1: a", "Word 2: red", "Word 3: dog", "Word 4: (none)",
    ]  # fmt: skip
    assert space.describe_ids(ids[2])[3] == "Word 4: (other)"
    assert labels_of(train[0], space) == {"caption": "a red dog"}
    np.testing.assert_array_equal(space.encode({"caption": "A RED dog!"}), ids[0])


def test_a_class_label_may_not_take_a_name_that_is_in_use():
    for name in ("Age", "Edema", "Word 1", "Markers"):
        record = image_record("p", "p", classes=[(name, "x")])
        with pytest.raises(ValueError, match=f"{name!r} has a name that memjax uses"):
            class_slots([record])


def test_images_without_anything_to_say_are_refused_with_the_way_out(tmp_path):
    picture(tmp_path / "1.png")
    train, _, _ = read_folder(tmp_path)
    with pytest.raises(ValueError, match=r"neither class labels nor captions .*sub-folder a class"):
        label_space_of(train, "folder", SETTINGS)


def test_several_captions_and_repeats(tmp_path):
    for number in range(5):
        picture(tmp_path / f"{number}.png", number)
    rows = [
        {"file_name": "0.png", "text": ["one  dog", " ", "a dog"], "repeats": 200},
        {"file_name": "1.png", "text": ["alone"]},
        {"file_name": "2.png", "text": "plain"},
        {"file_name": "3.png", "text": ["good", 3]},
        {"file_name": "4.png", "text": "x", "repeats": 0},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, _, problems = read_folder(tmp_path)
    assert [(r.caption, r.captions, r.repeats) for r in train] == [
        ("one dog", ("one dog", "a dog"), 200),
        ("alone", (), 1),
        ("plain", (), 1),
    ]
    assert problems.counts == {"text is no string": 1, "repeats is no count": 1}


def test_metadata_csv_beside_a_folder_of_images(tmp_path):
    for number in (1, 2, 3, 4, 5):
        picture(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "metadata.csv").write_text(
        "\ufefffile_name,text,kind,repeats\n"
        'images/2.png,"a dog, twice",dog,2\n'
        'images/1.png,"a\ncat",cat,\n'
        "images/3.png,unquoted, comma,cat,1\n"
        "images/4.png,often,cat,many\n"
        "images/6.png,gone,cat,\n"
    )
    train, _, problems = read_folder(tmp_path, class_fields=("kind",))
    assert [(r.patient, r.caption, r.classes, r.repeats) for r in train] == [
        ("images/1.png", "a cat", (("Kind", "cat"),), 1),
        ("images/2.png", "a dog, twice", (("Kind", "dog"),), 2),
    ]
    assert problems.summary() == (
        "image that no table names: 2 (images/3.png; images/5.png). "
        "missing file: 1 (metadata.csv row 7: images/6.png). "
        "repeats is no count: 1 (metadata.csv row 6: 'many'). "
        "wrong number of cells: 1 (metadata.csv row 5: +1)."
    )


def test_a_metadata_csv_in_each_part_and_jsonl_first(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / "1.png", len(part) + (part == "train"))
        (tmp_path / part / "metadata.csv").write_text(f"file_name,text\nimages/1.png,{part} csv\n")
    (tmp_path / "train" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "images/1.png", "text": "train jsonl"})
    )
    train, held, problems = read_folder(tmp_path)
    assert not problems
    assert [r.caption for r in train] == ["train jsonl"]
    assert [r.caption for r in held] == ["valid csv"]


TABLES = {
    "metadata.csv without file_name": (
        ("metadata.csv", "picture,prompt\n1.png,a dog\n"),
        r"metadata\.csv lacks 'file_name' and has other columns 'picture', 'prompt'; expected at "
        r"least a caption table's column 'file_name' with the images' places: rename",
    ),
    "metadata.csv with semicolons": (
        ("metadata.csv", "file_name;text\n1.png;a dog\n"),
        r"missing file: 1 \(metadata\.csv row 2: 1\.png\)",
    ),
    "metadata.csv with another name for text": (
        ("metadata.csv", "file_name,description\nimages/1.png,a dog\n"),
        r"empty caption: 1 \(metadata\.csv row 2 \(did you mean 'description'\?\)\)",
    ),
    "metadata.jsonl with other names": (
        ("metadata.jsonl", '{"images": "images/1.png", "prompt": "a dog"}\n'),
        r"line without file_name: 1 \(metadata\.jsonl line 1\)",
    ),
    "metadata.parquet": (
        ("metadata.parquet", "PAR1"),
        r"metadata\.parquet is no Parquet table \(.*\); write it again",
    ),
    "a table of another name": (
        ("labels.csv", "name,label\n1.png,dog\n"),
        r"holds labels\.csv, which is not read, and 'images' would be the class of every image",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_not_read_is_never_passed_over(tmp_path, kind):
    (name, text), said = TABLES[kind]
    picture(tmp_path / "images" / "1.png"), picture(tmp_path / "images" / "2.png", 1)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_folder(tmp_path)


def test_several_classes_may_lie_beside_another_table(tmp_path):
    picture(tmp_path / "cat" / "1.png"), picture(tmp_path / "dog" / "2.png", 1)
    (tmp_path / "licenses.csv").write_text("name,license\n")
    assert [r.classes[0][1] for r in read_folder(tmp_path)[0]] == ["cat", "dog"]

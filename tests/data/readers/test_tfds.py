"""Prepared data sets: found by name, read without TensorFlow, opened by address."""

import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from tfds_sets import png, write_mnist, write_set

from memjax.data.images import CorruptImageError, load_image
from memjax.data.labels.of_data import label_space_of
from memjax.data.labels.space import FINDINGS
from memjax.data.pipeline import ImageFiles, make_batches
from memjax.data.readers.tfds import read_tfds
from memjax.data.readers.tfds_folder import find_prepared, prepare_command
from memjax.data.records import POSITIVE, UNCERTAIN, encode_records
from tests.commands import PATIENCE

SETTINGS = {
    "findings": (), "num_markers": 0, "age_bin": 5, "use_view": True, "use_sex": True,
    "use_age": True, "max_words": 8, "vocabulary_size": 50,
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with two data sets, one of them in two configurations."""
    folder = tmp_path_factory.mktemp("tfds")
    write_mnist(folder)
    write_mnist(folder, "imagenette", config="full-size-v2")
    write_mnist(folder, "imagenette", config="320px-v2")
    return folder


def test_class_labels_become_tokens(prepared):
    train, held, problems, folder = read_tfds("mnist", str(prepared))
    assert folder == str(prepared / "mnist" / "3.0.1")
    assert (len(train), len(held), problems.total) == (12, 4, 0)
    space = label_space_of(train, "tfds", SETTINGS, held)
    assert [slot.name for slot in space.slots] == ["Label"]
    assert space.slots[0].values == tuple("0123456789")
    ids = encode_records(train, space)[:, 0]
    shown = [load_image(record.path, 8)[4, 4, 0] for record in train]
    np.testing.assert_array_equal(shown, 20 * (ids - 1))
    assert all(record.path.startswith(f"tfds://{folder}#train/") for record in train)
    assert len({record.path for record in [*train, *held]}) == 16


def test_images_come_through_the_pipeline_by_address(prepared):
    train, *_ = read_tfds("mnist", str(prepared))
    files = ImageFiles(train, size=8)
    labels = np.arange(len(train), dtype=np.int32)[:, None]
    batches = make_batches(pickle.loads(pickle.dumps(files)), labels, batch_size=4, seed=0)
    batch = next(batches)
    own = np.stack([load_image(train[row].path, 8) for row in batch.row])
    np.testing.assert_allclose(batch.image, own / 127.5 - 1, atol=1e-6)


def test_a_configuration_and_a_folder_of_its_own_are_found(prepared, tmp_path):
    wanted = str(prepared / "imagenette" / "full-size-v2" / "3.0.1")
    assert find_prepared("imagenette/full-size-v2", str(prepared)) == wanted
    assert find_prepared("imagenette/full-size-v2", wanted) == wanted
    assert find_prepared("mnist", str(prepared / "mnist")) == str(prepared / "mnist" / "3.0.1")
    assert find_prepared("mnist:3.0.1", str(prepared)).endswith("3.0.1")
    write_mnist(tmp_path, train=2, test=1, version="3.0.9")
    write_mnist(tmp_path, train=2, test=1, version="3.0.10")
    assert find_prepared("mnist", str(tmp_path)).endswith("3.0.10")  # newest, not last by letters


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minst", r"no prepared data set 'minst' \(did you mean 'mnist'\?\) .*: prepare it with"),
        ("imagenette", r"fits several data sets; expected 'imagenette/320px-v2', 'imagenette/full"),
        ("mnist:9.9.9", r"holds no prepared data set 'mnist:9\.9\.9'"),
        ("", r"data\.tfds_name is empty; .* holds 'imagenette/320px-v2'"),
    ],
)
def test_what_is_not_there_is_said_with_the_way_out(prepared, name, words):
    with pytest.raises(ValueError, match=words):
        find_prepared(name, str(prepared))


def test_a_share_is_held_out_by_content(tmp_path):
    write_mnist(tmp_path, train=60)  # six copies of each of ten images
    train, held, *_ = read_tfds("mnist", str(tmp_path), held_out_fraction=0.4)
    sides = {label: Counter() for label in "0123456789"}
    for side, records in (("train", train), ("held", held[:-4])):
        for record in records:
            sides[record.classes[0][1]][side] += 1
    assert all(len(side) == 1 for side in sides.values())
    assert {next(iter(side)) for side in sides.values()} == {"train", "held"}


def test_captions_and_colour(tmp_path):
    rows = [{"picture": png(9 * i, channels=3), "caption": f"a grey {i}"} for i in range(3)]
    write_set(
        tmp_path,
        "little",
        lambda tfds: {"picture": tfds.features.Image(), "caption": tfds.features.Text()},
        {"train": rows},
    )
    train, held, _, _ = read_tfds("little", str(tmp_path))
    assert held == []
    by_caption = {record.caption: record for record in train}
    assert load_image(by_caption["a grey 2"].path, 8, 3)[4, 4].tolist() == [18, 18, 18]


def test_what_cannot_be_conditioned_on_is_refused(tmp_path):
    folder = write_set(
        tmp_path, "bare", lambda t: {"image": t.features.Image()}, {"train": [{"image": png(1)}]}
    )
    with pytest.raises(ValueError, match=r"neither a ClassLabel nor a caption .*\['image'\]"):
        read_tfds("bare", folder)
    folder = write_set(
        tmp_path, "words", lambda t: {"text": t.features.Text()}, {"train": [{"text": "a"}]}
    )
    with pytest.raises(ValueError, match=r"has no image among its features \['text'\]"):
        read_tfds("words", folder)
    one = {"image": png(1), "label": 0}
    folder = write_set(
        tmp_path,
        "other",
        lambda t: {"image": t.features.Image(), "label": t.features.ClassLabel(num_classes=1)},
        {"training": [one]},
    )
    with pytest.raises(ValueError, match=r"the splits \['training'\]; expected one called 'train'"):
        read_tfds("other", folder)


STOCK = ["uncertain", "positive", "negative", "unmentioned"]


def write_stock(folder, with_view=True):
    """Rows as the stock builder writes them: ids 0 uncertain, 1 positive, 2 negative, 3 blank."""

    def features(tfds):
        label = tfds.features.ClassLabel
        kinds = {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(),
            "label": tfds.features.Sequence(label(names=STOCK)),
        }
        return kinds | ({"image_view": label(names=["frontal", "lateral"])} if with_view else {})

    def row(patient, study, position, states):
        place = f"CheXpert-v1.0-small/train/{patient}/{study}/view1_{position}.jpg"
        labels = ["unmentioned"] * 14
        for name, state in states.items():
            labels[FINDINGS.index(name)] = state
        made = {"name": place, "image": png(30, channels=3), "label": labels}
        return made | ({"image_view": position} if with_view else {})

    rows = [
        row("patient00001", "study1", "frontal", {"Edema": "positive", "Fracture": "uncertain"}),
        row("patient00001", "study2", "lateral", {}),
        row("patient00002", "study1", "frontal", {"Edema": "negative"}),
    ]
    return write_set(folder, "chexpert", features, {"train": rows, "validation": rows[2:]}, "3.1.0")


@pytest.mark.parametrize("with_view", [True, False])
def test_the_stock_chexpert_is_read_as_radiographs(tmp_path, with_view):
    write_stock(tmp_path, with_view)
    train, held, problems, _ = read_tfds("chexpert", str(tmp_path))
    assert (len(train), len(held), problems.total) == (2, 1, 0)
    first = next(record for record in train if record.patient == "patient00001")
    state = dict(zip(FINDINGS, first.findings, strict=True))
    assert {name for name, s in state.items() if s} == {"Edema", "Fracture"}
    assert (state["Edema"], state["Fracture"]) == (POSITIVE, UNCERTAIN)
    assert (first.study, first.view, first.sex, first.age) == ("study1", "", "", None)
    both, *_ = read_tfds("chexpert", str(tmp_path), frontal_only=False)
    assert Counter(record.frontal for record in both) == {True: 2, False: 1}
    space = label_space_of(train, "tfds", SETTINGS)
    assert space.findings == FINDINGS
    assert load_image(first.path, 8).shape == (8, 8, 1)


def test_a_row_that_cannot_be_decoded_is_named(tmp_path):
    import io

    rows = [{"image": io.BytesIO(b"no image at all"), "label": 0}, {"image": png(20), "label": 1}]

    def features(tfds):
        return {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}

    folder = write_set(tmp_path, "broken", features, {"train": rows})
    train, *_ = read_tfds("broken", folder)
    bad = next(record for record in train if record.classes == (("Label", "0"),))
    with pytest.raises(CorruptImageError, match=r"#train/\d cannot be decoded \(not an image\)"):
        load_image(bad.path, 8)
    with pytest.raises(CorruptImageError, match=r"the split 'train' has 2 rows"):
        load_image(f"tfds://{folder}#train/2", 8)
    with pytest.raises(CorruptImageError, match=r"expected an address like tfds:"):
        load_image("tfds://nothing", 8)


def test_nothing_of_it_imports_tensorflow_or_imports_it_early(prepared):
    code = (
        "import sys\n"
        "import memjax.training.data\n"
        "import memjax.data.readers.tfds, memjax.data.tfds_chexpert\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "from memjax.data.images import load_image\n"
        f"records = memjax.data.readers.tfds.read_tfds('mnist', {str(prepared)!r})[0]\n"
        "assert load_image(records[0].path, 8).shape == (8, 8, 1)\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_the_command_names_the_builder_that_is_needed():
    assert "memjax.data.tfds_chexpert" in prepare_command("chexpert", "/d")
    assert "tfds.builder('mnist', data_dir='/d', file_format='array_record')" in prepare_command(
        "mnist", "/d"
    )


def test_without_the_library_one_sentence_says_how_to_get_it(prepared, monkeypatch):
    from memjax.data.readers import tfds_folder

    tfds_folder.open_builder.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"not installed .*: pip install tensorflow-datasets"):
        read_tfds("mnist", str(prepared))

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from memjax.data.dataset import load_dataset, load_images
from memjax.data.duplication import duplicated_rows
from memjax.data.labels.space import FINDINGS, chexpert_label_space
from memjax.data.phantoms.anatomy import Pose, sample_anatomy
from memjax.data.phantoms.film import Exposure, draw_frontal
from memjax.data.phantoms.findings import Findings
from memjax.data.phantoms.folder import vocabulary, write_phantoms
from memjax.data.phantoms.glyphs import glyph, stamp
from memjax.data.phantoms.patients import Patient
from memjax.data.readers.chexpert import read_chexpert
from tests.commands import held_elsewhere


def digests(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_seed_decides_every_byte(phantom_root, phantom_settings, tmp_path):
    write_phantoms(tmp_path / "again", **phantom_settings)
    assert digests(tmp_path / "again") == digests(phantom_root)
    write_phantoms(tmp_path / "other", **{**phantom_settings, "seed": 6})
    a, b = digests(phantom_root), digests(tmp_path / "other")
    same = [name for name in a if name.endswith(".jpg") and a[name] == b.get(name)]
    assert not same


def test_the_layout_is_chexperts(phantom_root):
    jpegs = sorted(p.relative_to(phantom_root).as_posix() for p in phantom_root.rglob("*.jpg"))
    with Image.open(phantom_root / jpegs[0]) as image:
        assert (image.size, image.mode, image.format) == ((64, 64), "L", "JPEG")
    assert {p.split("/")[0] for p in jpegs} == {"train", "valid"}
    head = (phantom_root / "train.csv").read_text().splitlines()[0]
    assert head.startswith("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged")
    assert head.endswith("Fracture,Support Devices")
    rows = sum(len((phantom_root / f).read_text().splitlines()) - 1 for f in
               ("train.csv", "valid.csv"))  # fmt: skip
    assert rows == len(jpegs)


def test_the_manifest_says_which_files_are_duplicates(phantom_root):
    manifest = json.loads((phantom_root / "phantoms.json").read_text())
    assert {len(g["paths"]) for g in manifest["groups"].values()} == {4}
    assert len(manifest["groups"]) == 2
    assert len(manifest["singles"]) == 24
    assert len(manifest["held_out"]) == 12
    for group in manifest["groups"].values():
        contents = {(phantom_root / p).read_bytes() for p in group["paths"]}
        assert len(contents) == 1
        assert len({p.split("/")[1] for p in group["paths"]}) == 1
    train, _ = read_chexpert(phantom_root)
    space = chexpert_label_space((), 2, manifest["marker_vocabulary"])
    data = load_dataset(train, size=32, label_space=space)
    planted = np.array([bool(r.group) for r in train])
    np.testing.assert_array_equal(duplicated_rows(data.groups), planted)
    assert data.images.shape == (32, 32, 32, 1)
    for group in set(data.groups[planted]):
        assert len(np.unique(data.labels[data.groups == group], axis=0)) == 1


def test_each_image_has_its_own_marker_pair(phantom_root):
    train, _ = read_chexpert(phantom_root, frontal_only=False)
    held, _ = read_chexpert(phantom_root, "valid", frontal_only=False)
    singles = [r.markers for r in train if not r.group]
    assert len(set(singles)) == len(singles)
    by_group = {r.group: r.markers for r in train if r.group}
    assert len(set(by_group.values()) | set(singles)) == len(by_group) + len(singles)
    seen = {r.markers for r in train}
    assert not seen & {r.markers for r in held}
    assert not {r.patient for r in train} & {r.patient for r in held}


def test_held_out_labels_are_certain_when_asked(tmp_path, phantom_root):
    write_phantoms(
        tmp_path, num_images=1, num_held_out=8, num_duplicated=0, size=32, certain_held_out=True
    )
    states = {s for r in read_chexpert(tmp_path, "valid")[0] for s in r.findings}
    assert states == {1, 2}
    loose = {s for r in read_chexpert(phantom_root, "valid")[0] for s in r.findings}
    assert 0 in loose


def test_the_same_folder_is_reused_and_no_other_is_overwritten(
    phantom_root, phantom_settings, tmp_path
):
    before = {p: p.stat().st_mtime_ns for p in phantom_root.rglob("*.jpg")}
    found = write_phantoms(phantom_root, **phantom_settings)
    assert found == json.loads((phantom_root / "phantoms.json").read_text())
    assert before == {p: p.stat().st_mtime_ns for p in phantom_root.rglob("*.jpg")}
    with pytest.raises(ValueError, match="phantoms of other settings"):
        write_phantoms(phantom_root, **{**phantom_settings, "seed": 9})
    (tmp_path / "train.csv").write_text("Path\n")
    with pytest.raises(ValueError, match="holds another data set"):
        write_phantoms(tmp_path, num_images=1)
    assert (tmp_path / "train.csv").read_text() == "Path\n"
    (tmp_path / "phantoms.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        write_phantoms(tmp_path, num_images=1)


def test_a_bit_that_flipped_is_noticed_though_the_image_decodes(
    phantom_root, phantom_settings, tmp_path
):
    root = tmp_path / "again"
    shutil.copytree(phantom_root, root)
    file = sorted(root.rglob("*.jpg"))[5]
    before, data = np.asarray(Image.open(file)), bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    assert np.asarray(Image.open(file)).shape == before.shape
    name = file.relative_to(root).as_posix()
    said = rf"1 of \d+ images in .*again are not as they were drawn .*{re.escape(name)}"
    with pytest.raises(ValueError, match=said):
        write_phantoms(root, **phantom_settings)
    file.unlink()
    with pytest.raises(ValueError, match=said):
        write_phantoms(root, **phantom_settings)
    manifest = json.loads((root / "phantoms.json").read_text())
    manifest.pop("crc32")  # as version 0.1 wrote it
    (root / "phantoms.json").write_text(json.dumps(manifest))
    assert write_phantoms(root, **phantom_settings)["groups"] == manifest["groups"]


def test_two_processes_do_not_draw_into_one_folder(tmp_path):
    with (
        held_elsewhere(tmp_path / ".lock"),
        pytest.raises(ValueError, match="in use by another run"),
    ):
        write_phantoms(tmp_path, size=32, num_images=1, num_held_out=0, num_duplicated=0)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "size is 8"),
        ({"copies": 0}, "copies is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"studies_per_patient": (3, 1)}, "studies_per_patient is"),
        ({"lateral_fraction": 1.5}, "lateral_fraction is 1.5"),
        ({"num_images": 0, "num_duplicated": 0}, "at least one image"),
        ({"num_images": 10**6}, "more marker codes than there are"),
    ],
)
def test_impossible_settings_leave_no_folder(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_no_markers(tmp_path):
    manifest = write_phantoms(
        tmp_path, size=32, num_images=2, num_held_out=1, num_duplicated=1, copies=2, markers=False
    )
    assert manifest["marker_vocabulary"] == []
    assert {r.markers for r in read_chexpert(tmp_path)[0]} == {()}


def test_vocabulary_is_large_enough_and_has_no_twins():
    for num in (1, 100, 1000, 9000, 20000):
        first, second = vocabulary(num)
        assert len(first) == len(set(first))
        assert len(second) == len(set(second))
        assert len(first) * len(second) >= num
        assert all(glyph(letter).any() for code in (*first, *second) for letter in code)


def test_codes_can_be_told_apart():
    codes = [code for words in vocabulary(9000) for code in words]
    pictures = {stamp([code], 64).tobytes() for code in codes}
    assert len(pictures) == len(codes)
    assert stamp(["K3"], 128).shape == tuple(2 * n for n in stamp(["K3"], 64).shape)
    with pytest.raises(ValueError, match="'é' cannot be drawn"):
        stamp(["é"], 64)


def draw(strength=None, seed=0, side=1.0, markers=()):
    """One patient's film with the given findings; noise-free, straight."""
    strength = strength or {}
    return draw_frontal(
        sample_anatomy(np.random.default_rng(seed), "Male", 60),
        Findings(
            tuple(strength.get(name, 0.0) for name in FINDINGS),
            (side,) * 14,
            ((0.5, 0.5, 0.2),) * 14,
        ),
        size=64,
        pose=Pose(0.0, 0.0, 0.0, 1.0),
        exposure=Exposure(1.2, 0.5, 0.0, 0.0, 0.0, (-2, 2, -2, 2)),
        view="PA",
        markers=markers,
        rng=np.random.default_rng(1),
    ).astype(np.float64)


VISIBLE = [name for name in FINDINGS if name != "No Finding"]


@pytest.mark.parametrize("name", VISIBLE)
def test_every_finding_shows_in_the_image(name):
    change = np.mean([np.abs(draw({name: 1.0}, s) - draw({}, s)) > 8 for s in range(4)], (1, 2))
    assert change.min() > 0.004, "fewer than 16 of 4,096 pixels change visibly"


@pytest.mark.parametrize(
    "name", ["Consolidation", "Pleural Effusion", "Pneumothorax", "Lung Lesion", "Pneumonia"]
)
def test_one_sided_findings_lie_on_their_side(name):
    for side in (-1.0, 1.0):
        change = np.abs(draw({name: 1.0}, 2, side) - draw({}, 2, side))
        halves = change[:, :32].sum(), change[:, 32:].sum()
        assert halves[int(side > 0)] > 4 * halves[int(side < 0)]


def test_effects_point_the_right_way():
    clear = draw()
    assert (draw({"Edema": 1.0}) - clear).mean() > 2, "edema is whiter"
    assert (draw({"Pleural Effusion": 1.0}) - clear)[32:].mean() > 2, "fluid is white, below"
    assert (draw({"Pneumothorax": 1.0}) - clear).min() < -20, "free air is black"
    wide, normal = draw({"Cardiomegaly": 1.0}), clear
    assert (wide > 150).mean() > (normal > 150).mean() + 0.01, "a large heart is white"


def test_the_heart_lies_to_the_patients_left():
    lower = np.mean([draw({}, seed) for seed in range(8)], 0)[34:44]
    assert lower[:, 34:48].mean() > lower[:, 16:30].mean() + 5


def test_the_code_is_burned_in_where_it_should_be():
    plain, marked, other = draw(), draw(markers=("K3", "17")), draw(markers=("K8", "17"))
    changed = np.argwhere(plain != marked)
    assert changed.max() < 20
    assert marked.max() >= 247
    assert (marked != other).any()


def test_two_studies_of_one_patient_are_nearer_than_two_patients():
    def films(seeds, studies):
        return np.stack(
            [
                Patient(0, n).film(s, size=32).pixels.astype(np.float64)
                for n in seeds
                for s in studies
            ]
        ).reshape(len(seeds), len(studies), -1)

    pictures = films(range(1, 41), (1, 2))
    apart = np.sqrt(((pictures[:, None, 0] - pictures[None, :, 1]) ** 2).mean(-1))
    same = np.diag(apart)
    others = apart[~np.eye(len(apart), dtype=bool)]
    assert np.median(same) < 0.75 * np.median(others)


def test_no_two_patients_look_like_copies(phantom_root):
    held, _ = read_chexpert(phantom_root, "valid")
    train, _ = read_chexpert(phantom_root)
    a = load_images(held, size=32).reshape(len(held), -1) / 127.5
    b = load_images(train, size=32).reshape(len(train), -1) / 127.5
    nearest = np.sqrt(((a[:, None] - b[None]) ** 2).mean(-1)).min(1)
    assert nearest.min() > 0.15, "RMS difference in units of [-1, 1]"

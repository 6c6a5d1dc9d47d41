"""Planted copies among drawn radiographs: found, told from chance, the same after a stop."""

import io

import numpy as np
import pytest
from PIL import Image

from memjax.data.phantoms.patients import Patient
from memjax.evaluate.features.base import NamedFeatures
from memjax.studies import copies as package
from memjax.studies.copies import comparing, copies, figures, reading, search, study
from memjax.studies.copies.folders import image_folder
from memjax.studies.copies.patients import read_patients
from memjax.studies.copies.search import shifted_distance
from memjax.studies.store import Store

SIZE, TRAIN, HELD, PER_KIND = 64, 1000, 160, 12


def _jpeg(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=60)
    return np.asarray(Image.open(out))


def _moved(pixels):
    return np.pad(pixels, ((2, 0), (2, 0)), mode="edge")[:SIZE, :SIZE]


def _brighter(pixels):
    return np.clip(pixels * 1.15 + 12, 0, 255).astype(np.uint8)


KINDS = {
    "exact": lambda pixels: pixels,
    "jpeg": _jpeg,
    "shifted": _moved,
    "brighter": _brighter,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
}


def write(folder, images, letter):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{letter}{i:04d}.png", compress_level=1)
    return folder


@pytest.fixture(scope="session")
def films():
    """1,000 training films, 160 held-out ones and 140 others, of as many patients."""
    return [
        Patient(0, number + 1).film(1, size=SIZE).pixels for number in range(TRAIN + HELD + 140)
    ]


@pytest.fixture(scope="session")
def folders(films, tmp_path_factory):
    """Training, held-out and generated images: 12 planted copies of each of 5 kinds, 140 others."""
    root = tmp_path_factory.mktemp("copies")
    sources = np.random.default_rng(1).choice(TRAIN, PER_KIND * len(KINDS), replace=False)
    planted = [
        change(films[row])
        for change, rows in zip(KINDS.values(), np.split(sources, len(KINDS)), strict=True)
        for row in rows
    ]
    write(root / "training", films[:TRAIN], "t")
    write(root / "held", films[TRAIN : TRAIN + HELD], "h")
    write(root / "generated", [*planted, *films[TRAIN + HELD :]], "g")
    (root / "patients.csv").write_text(
        "file_name,patient\n" + "".join(f"t{i:04d}.png,p{i // 2}\n" for i in range(TRAIN))
    )
    return root, sources


@pytest.fixture(scope="session")
def found(folders):
    root, _ = folders
    given = (root / "generated", root / "training", root / "held")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_LADDER_PAIRS", 0)  # it has a test of its own
        return copies(*given, patients=str(root / "patients.csv"))


@pytest.mark.parametrize("kind", KINDS)
def test_planted_copies_of_each_kind_are_found_with_their_source(found, folders, kind):
    place = list(KINDS).index(kind) * PER_KIND
    rows = slice(place, place + PER_KIND)
    assert found.is_copy[rows].all()
    assert found.index[rows].tolist() == folders[1][rows].tolist()
    assert found.exact[rows].all() == (kind == "exact")
    assert found.comparisons[0].generated.mirrored[rows].all() == (kind == "mirrored")


def test_other_images_are_copies_as_rarely_as_held_out_ones(found):
    """By construction at most 1 % of 160 held-out images; 140 others may differ by chance."""
    assert found.summary["background"]["num"] <= 1
    assert found.is_copy[PER_KIND * len(KINDS) :].mean() <= 0.05
    assert found.summary["verdict"] == "found"
    copied = found.summary["copies"]
    assert copied["rate_low"] <= copied["num"] / 200 <= copied["rate_high"]


def test_whose_images_came_back_is_counted_by_image_and_patient(found, folders):
    images = {int(row) for row in folders[1]}
    assert images <= {c.row for c in found.copied}
    who = {f"p{c.row // 2}" for c in found.copied}
    assert found.summary["copied_patients"] == {"num": len(who), "of": TRAIN // 2}


def test_distributions_stand_beside_their_floor(found):
    (entry,) = found.summary["distribution"]
    assert entry["fd_images"] == HELD
    assert 0 < entry["fd_training"] < entry["fd_held_out"]  # planted copies pull it to training
    assert entry["fd_floor"] > 0
    assert 0 <= entry["auth_pct"] < entry["background"]["auth_pct"]


class _StopError(Exception):
    pass


def test_a_stopped_call_goes_on_and_ends_the_same(folders, found, tmp_path, monkeypatch):
    root, _ = folders
    monkeypatch.setattr(reading, "BLOCK", 64)
    monkeypatch.setattr(figures, "_LADDER_PAIRS", 0)
    given = (root / "generated", root / "training", root / "held")
    calls, whole = [], search.nearest_by_pixels

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise _StopError
        return whole(*arguments)

    options = {"patients": str(root / "patients.csv"), "keep": tmp_path / "parts"}
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "nearest_by_pixels", stops)
        with pytest.raises(_StopError):
            copies(*given, **options)
    kept = {p.name for p in (tmp_path / "parts").glob("part-read-*")}
    assert kept
    read = []
    monkeypatch.setattr(reading, "_read_one", lambda path: read.append(path))
    again = copies(*given, **options)
    assert not read  # no image is decoded twice
    np.testing.assert_array_equal(again.index, found.index)
    np.testing.assert_array_equal(again.is_copy, found.is_copy)
    np.testing.assert_array_equal(
        again.chosen_values("calibrated"), found.chosen_values("calibrated")
    )
    without = {k: v for k, v in found.summary.items() if k != "seconds"}
    assert {k: v for k, v in again.summary.items() if k != "seconds"} == without


def test_parts_of_other_folders_are_refused(folders, tmp_path, films):
    root, _ = folders
    other = write(tmp_path / "other", films[:30], "g")
    keep = tmp_path / "parts"
    store = Store(keep, {"format": 0})
    store.start()
    store.keep("a", {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="--restart"):
        copies(other, root / "training", keep=keep)


def test_without_held_out_images_training_images_are_the_background(folders):
    root, _ = folders
    found = copies(root / "generated", root / "training")
    assert found.summary["background"]["kind"] == "training"
    assert found.summary["background"]["of"] == TRAIN
    assert found.is_copy[: PER_KIND * len(KINDS)].all()
    assert found.summary["ladder"] == []
    assert found.summary["copied_patients"] is None
    assert "No held-out images were given" in found.summary["notes"][0]


def test_broken_files_are_named_and_skipped_and_sizes_may_differ(films, tmp_path):
    training = write(tmp_path / "training", films[:120], "t")
    generated = write(tmp_path / "generated", films[100:130], "g")
    (generated / "cut.png").write_bytes((generated / "g0000.png").read_bytes()[:200])
    (generated / "none.jpg").write_bytes(b"")
    (generated / "scan.heic").write_bytes(b"II*")
    Image.fromarray(films[3]).resize((90, 90)).convert("RGB").save(generated / "large.png")
    found = copies(generated, training)
    assert set(found.generated.problems) == {"cut.png", "none.jpg", "scan.heic"}
    assert len(found.is_copy) == 31
    assert found.generated.place(30) == "large.png"
    assert found.is_copy[30]
    assert found.training.place(found.index[30]) == "t0003.png"
    files = found.summary["files"]["generated"]
    assert files["shapes"] == {"64×64 L": 30, "90×90 RGB": 1}
    assert files["of_other_kinds"] == {"num": 0, "examples": []}


def test_no_rate_is_claimed_from_too_few(films, tmp_path):
    training = write(tmp_path / "training", films[:120], "t")
    few = write(tmp_path / "few", films[200:205], "g")
    found = copies(few, training)
    assert found.summary["copies"]["rate"] is None
    assert found.summary["verdict"] == "too_few"
    small = write(tmp_path / "small", films[:30], "t")
    many = write(tmp_path / "many", films[200:240], "g")
    found = copies(many, small)
    assert found.summary["copies"]["rate"] is None
    assert found.summary["background"]["rate"] is None


def test_repeats_in_training_and_held_out_copies_are_told(films, tmp_path):
    training = write(tmp_path / "training", [*films[:150], films[7], films[7]], "t")
    held = write(tmp_path / "held", [films[5], *films[200:340]], "h")
    generated = write(tmp_path / "generated", [films[7], *films[400:430]], "g")
    found = copies(generated, training, held)
    assert found.is_copy[0]  # its repeats are no neighbors that hide it
    assert found.times[found.index[0]] == 3
    assert found.summary["duplicates"]["repeated_contents"] == 1
    assert found.summary["background"]["left_out"] == 1
    assert found.summary["background"]["of"] == 140


def test_recompressed_copies_alone_are_a_finding_whatever_the_size_of_the_background(
    films, tmp_path
):
    """One in 61 lies within the interval of the false alarms: the rates alone say nothing."""
    training = write(tmp_path / "training", films[:150], "t")
    held = write(tmp_path / "held", films[200:290], "h")
    generated = write(tmp_path / "generated", [_jpeg(films[7]), *films[400:460]], "g")
    found = copies(generated, training, held)
    assert not found.exact.any()
    assert found.summary["nearly_same"] == {"num": 1, "exact": 0, "background": 0}
    assert found.certainty(0) == "nearly the same"
    assert found.certainty(1) == ""
    assert found.summary["verdict"] == "found"
    few = copies(write(tmp_path / "few", [_jpeg(films[7])], "g"), training, held)
    assert few.summary["copies"]["rate"] is None
    assert few.summary["verdict"] == "found"


def test_a_background_that_is_nearly_the_same_too_leaves_the_verdict_to_the_rates():
    copied = {"num": 1, "of": 100, "rate": 0.01, "rate_low": 0.0, "rate_high": 0.05}
    back = {"num": 1, "of": 100, "rate": 0.01, "rate_low": 0.0, "rate_high": 0.05}
    near = {"num": 1, "exact": 0, "background": 0}
    assert figures.verdict(copied, back, near) == "found"
    assert figures.verdict(copied, back, near | {"background": 1}) == "unclear"
    assert figures.verdict(copied, back | {"of": 10}, near) == "unclear"


def test_held_out_images_that_stand_in_training_are_in_no_figure(films, tmp_path):
    training = write(tmp_path / "training", films[:120], "t")
    generated = write(tmp_path / "generated", films[400:430], "g")
    fair = write(tmp_path / "fair", films[200:230], "h")
    leaky = write(tmp_path / "leaky", [*films[200:230], *films[:30]], "h")
    one, other = (copies(generated, training, held).summary for held in (fair, leaky))
    assert other["background"]["left_out"] == 30
    assert other["ladder"] == one["ladder"]
    assert other["distribution"] == one["distribution"]


def test_without_held_out_images_no_figure_is_called_held_out(films, tmp_path):
    training = write(tmp_path / "training", films[:120], "t")
    generated = write(tmp_path / "generated", films[400:430], "g")
    (entry,) = copies(generated, training).summary["distribution"]
    assert entry["real"] == "other training"
    assert any("60 other training images" in said for said in entry["warnings"])
    assert not any("held-out" in said for said in entry["warnings"])


def _corners(images):
    """Stands in for a network: gray levels on a grid, whatever the size."""
    step = images.shape[1] // 8
    return images[:, ::step, ::step].mean(axis=-1).reshape(len(images), -1)


def test_networks_are_further_comparisons_and_their_rows_are_kept(films, tmp_path, monkeypatch):
    training = write(tmp_path / "training", films[:120], "t")
    held = write(tmp_path / "held", films[200:310], "h")
    generated = write(tmp_path / "generated", [*films[:4], *films[400:420]], "g")
    asked = []
    network = NamedFeatures("a network", lambda x: asked.append(x.shape) or _corners(x))
    monkeypatch.setattr(study, "feature_fn", lambda name, path: network)
    options = {"features": ["sscd=x.pt"], "keep": tmp_path / "parts"}
    found = copies(generated, training, held, **options)
    assert [c.name for c in found.comparisons] == ["pixels", "sscd"]
    assert {shape[1:] for shape in asked} == {(288, 288, 3)}
    assert found.is_copy[:4].all()
    assert found.comparisons[1].generated.index[:4].tolist() == [0, 1, 2, 3]
    assert found.summary["background"]["num"] <= 1  # all comparisons together
    assert len(found.summary["distribution"]) == 2
    asked.clear()
    again = copies(generated, training, held, **options)
    assert not asked
    np.testing.assert_array_equal(again.index, found.index)


def test_held_out_images_that_all_stand_in_training_are_no_background(films, tmp_path):
    training = write(tmp_path / "training", films[:120], "t")
    held = write(tmp_path / "held", films[:30], "h")
    generated = write(tmp_path / "generated", films[400:430], "g")
    found = copies(generated, training, held)
    assert found.summary["background"] == {
        **{"num": 0, "of": 0, "kind": "held_out", "left_out": 30},
        **{"rate": None, "rate_low": None, "rate_high": None},
    }
    assert found.summary["verdict"] == "too_few"


def test_the_ladder_is_climbed_where_the_sets_are_small(films, tmp_path):
    training = write(tmp_path / "training", films[:100], "t")
    held = write(tmp_path / "held", films[200:230], "h")
    generated = write(tmp_path / "generated", [*films[:10], *films[400:420]], "g")
    found = copies(generated, training, held)
    rungs = {rung["name"]: rung for rung in found.summary["ladder"]}
    assert {"pixel_l2", "pearson", "ncc", "ssim"} <= set(rungs)
    assert all(rung["generated"]["num"] >= 10 for rung in rungs.values())
    assert any("fewer than 100" in note for note in found.summary["notes"])


def test_the_rule_lets_one_percent_of_the_background_pass():
    background = np.linspace(0.5, 1.5, 1000)
    rule = figures.fit_rule(background, 1)
    assert rule.fitted
    assert (background <= rule.threshold).sum() == 10
    assert figures.fit_rule(background + 1, 1).threshold == 1.0
    assert (background <= figures.fit_rule(background, 2).threshold).sum() == 5
    assert figures.fit_rule(background[:50], 1) == (1.0, False, pytest.approx(np.nan, nan_ok=True))


def test_a_shift_is_undone_and_an_image_of_one_gray_is_like_nothing():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 68, 68), np.uint8)
    whole, moved = images[:, 2:66, 2:66], images[:, :64, 3:67]
    near = reading.thumbnails_of(whole)[:, None]
    np.testing.assert_allclose(shifted_distance(moved, near), 0.0, atol=0.01)  # float16 cells
    flat = np.full((1, 64, 64), 90, np.uint8)
    distance = shifted_distance(flat, reading.thumbnails_of(flat)[:, None])
    np.testing.assert_allclose(distance, np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("header", "row", "who"),
    [
        ("Image Index,Patient ID", "a.png,12", "12"),
        ("dicom_id,subject_id", "a,77", "77"),
        ("Path,Sex", "CheXpert/train/patient00003/study1/a.png,Male", "patient00003"),
    ],
)
def test_tables_of_known_data_sets_name_patients(tmp_path, header, row, who):
    file = tmp_path / "table.csv"
    file.write_text(f"{header}\n{row}\n")
    assert list(read_patients(str(file)).values()) == [who]


def test_a_contact_sheet_of_memjax_sample_is_no_generated_image(films, tmp_path):
    folder = write(tmp_path / "made", films[:3], "g")
    Image.fromarray(films[0]).save(folder / "grid.png")
    assert len(image_folder("generated", folder).places) == 4
    (folder / "prompts.jsonl").write_text("")
    assert len(image_folder("generated", folder).places) == 3


def test_the_package_gives_the_function():
    assert package.copies is copies

"""``memjax copies``: what it writes, what it says, and a user's mistakes in one sentence."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import memjax


def write(folder, seeds):
    folder.mkdir(parents=True)
    for seed in seeds:
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
        image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
        image.save(folder / f"{seed:04d}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    write(folder / "training", range(120))
    write(folder / "held", range(200, 320))
    write(folder / "generated", [*range(5), *range(400, 425)])
    (folder / "generated" / "=broken.png").write_bytes(b"no image")
    (folder / "patients.csv").write_text(
        "file_name,patient\n" + "".join(f"{i:04d}.png,<b>{i // 2}</b>\n" for i in range(120))
    )
    return folder


@pytest.fixture(scope="module")
def out(root):
    done = memjax(
        *("copies", f"--generated={root}/generated", f"--training={root}/training"),
        *(f"--held_out={root}/held", f"--patients={root}/patients.csv", f"--out={root}/out"),
    )
    assert done.code == 0, done.err
    return root / "out", done


def test_it_says_how_many_whose_and_where(out):
    folder, done = out
    assert "Compared 30 images of generated with 120 training images of training." in done.out
    assert "Yes, it copies." in done.out
    assert "5 of 30 generated images" in done.out
    assert "5 of 120 different training images, of 3 of 60 patients" in done.out
    assert "1 files could not be read" in done.out
    assert f"written: {folder / 'index.html'}" in done.out
    assert {p.name for p in folder.iterdir()} == {
        *("index.html", "wall.png", "copies.csv", "copies.json", ".lock")
    }


def test_the_table_has_a_row_for_each_generated_image(out):
    with open(out[0] / "copies.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["generated"] for row in rows][:2] == ["0000.png", "0001.png"]
    assert len(rows) == 31
    assert [row["copy"] for row in rows].count("true") == 5
    assert rows[3]["nearest training image"] == "0003.png"
    assert rows[3]["same pixels"] == "true"
    assert rows[3]["certainty"] == "same pixels"
    assert rows[9]["certainty"] == ""
    (broken,) = [row for row in rows if row["problem"]]
    assert broken["generated"] == "'=broken.png"
    assert broken["copy"] == ""


def test_the_summary_says_what_it_was_made_with(out):
    found = json.loads((out[0] / "copies.json").read_text())
    assert found["copies"]["num"] == found["copies"]["exact"] == 5
    assert found["background"]["of"] == 120
    assert found["made_by"]["generated"] == "generated"
    assert found["made_by"]["versions"]["memjax"]
    assert len(found["training_images"]) == 5


def test_the_page_needs_no_other_file_and_escapes_names(out):
    page = (out[0] / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 10
    assert "<script" not in page
    assert "<b>0</b>" not in page
    assert "&lt;b&gt;0&lt;/b&gt;" in page


def test_the_page_says_how_sure_it_is_and_nothing_that_only_holds_for_diffusion(out):
    page = " ".join((out[0] / "index.html").read_text().split())
    assert "Does it copy? generated against training" in page
    assert "5 with the same pixels" in page
    assert "by chance 0 to 1 of 30; none is nearly the same" in page
    assert "A diffusion model that memjax reads can be mitigated instead" in page
    assert "picture" not in page
    assert "memoris" not in page


def test_files_of_training_as_generated_images_are_doubted(root, tmp_path):
    for number in range(25):
        (tmp_path / "made").mkdir(exist_ok=True)
        name = f"{number:04d}.png"
        (tmp_path / "made" / name).write_bytes((root / "training" / name).read_bytes())
    done = memjax(
        *("copies", f"--generated={tmp_path}/made", f"--training={root}/training"),
        f"--out={tmp_path}/out",
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "check that --generated is the folder" in page
    assert "training images (each against the others) do" in done.out
    assert "Real: other training" in page
    assert "never trained on</th>" not in page


def test_a_finished_run_is_made_again_the_same(out, root):
    before = (out[0] / "copies.csv").read_bytes()
    done = memjax(
        *("copies", f"--generated={root}/generated", f"--training={root}/training"),
        *(f"--held_out={root}/held", f"--patients={root}/patients.csv", f"--out={root}/out"),
    )
    assert done.code == 0, done.err
    assert (out[0] / "copies.csv").read_bytes() == before


GOOD = {"generated": "{root}/generated", "training": "{root}/training", "out": "{new}/out"}
MISTAKES = {
    "nothing given": ({"generated": "", "training": "", "out": ""}, "must be given"),
    "missing folder": ({"training": "{root}/nowhere"}, "nowhere does not exist"),
    "a file": ({"training": "{root}/patients.csv"}, "is a file, expected a folder"),
    "an archive": ({"generated": "{new}/made.zip"}, "unpack it"),
    "an archive inside": ({"generated": "{new}/packed"}, "1 of other kinds, such as made.zip"),
    "empty folder": ({"generated": "{new}/empty"}, "holds no image that is read"),
    "twice": ({"training": "{root}/generated"}, "are the same folder"),
    "held out is training": ({"held_out": "{root}/training"}, "are the same folder"),
    "inside": ({"training": "{root}"}, "lies inside"),
    "out inside": ({"out": "{root}/generated/out"}, "lies inside"),
    "nothing readable": ({"generated": "{new}/broken"}, "none of the 1 files"),
    "no table": ({"patients": "{root}/none.csv"}, "none.csv cannot be read"),
    "another table": ({"patients": "{new}/odd.csv"}, "no column of file names"),
    "no weights": ({"sscd": "{root}/none.pt"}, "nothing is downloaded"),
    "no path": ({"features": "sscd"}, "NAME=PATH"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(root, tmp_path, name):
    changes, words = MISTAKES[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"x")
    (tmp_path / "packed").mkdir()
    for archive in (tmp_path / "made.zip", tmp_path / "packed" / "made.zip"):
        archive.write_bytes(b"PK")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.rglob("*"))
    flags = [
        f"--{flag}={value.format(root=root, new=tmp_path)}"
        for flag, value in {**GOOD, **changes}.items()
    ]
    done = memjax("copies", *flags)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert sorted(tmp_path.rglob("*")) == before

"""``memjax data``: what it writes, and that it says what it looked at."""

import json

import pytest

from memjax.cli.main import COMMANDS
from memjax.report.pages.dataset import FILES
from tests.commands import memjax

SMALL = (
    "--config=phantoms_demo:short",
    "--config.data.phantoms.num_images=14",
    "--config.data.phantoms.num_held_out=6",
    "--config.data.phantoms.num_duplicated=1",
    "--config.data.phantoms.copies=5",
    "--size=32",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMJAX_KEEP_MEMORY", "0")
        done = memjax("data", *SMALL, f"--out={folder}")
    assert done.code == 0, done.err
    return folder, done


def test_a_page_tables_and_sentences(out):
    folder, done = out
    assert "data" in COMMANDS
    assert "one of them 5 times" in done.out
    assert (folder / "data.html").read_text().startswith("<!doctype html>")
    found = json.loads((folder / "data.json").read_text())
    assert found["totals"]["train"]["pictures"] == 19
    assert found["made_by"]["config"]["data"]["kind"] == "phantoms"
    assert found["made_by"]["versions"]["memjax"]
    assert {p.name for p in folder.iterdir() if p.is_file()} == {".lock", *FILES}


def test_again_with_fewer_images_says_so(out, tmp_path):
    root = out[0] / "data" / "CheXpert-v1.0-small"
    done = memjax(
        *("data", *SMALL, f"--config.data.root={root}", "--pictures=10"),
        f"--out={tmp_path / 'out'}",
    )
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "data.html").read_text()
    assert "Images were compared for 10 of" in page
    assert json.loads((tmp_path / "out" / "data.json").read_text())["looked_at"] == {
        "pictures": 10,
        "of": 25,
    }


def test_what_training_would_read_is_what_is_shown(out, tmp_path):
    """Policies and the choice of rows count here as well."""
    root = out[0] / "data" / "CheXpert-v1.0-small"
    flags = ("--config.data.uncertainty=ignore", "--config.data.rows_with=('Cardiomegaly',)")
    done = memjax(
        *("data", *SMALL, f"--config.data.root={root}", *flags), f"--out={tmp_path / 'out'}"
    )
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "data.json").read_text())
    counts = found["findings"]["train"]["Cardiomegaly"]
    assert counts["positive"] == found["totals"]["train"]["pictures"] > 0
    assert sum(states["uncertain"] for states in found["findings"]["train"].values()) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config=phantoms_demo",), "--out must be given"),
        (("--config=phantoms_demo", "--out={out}", "--near=1.5"), "--near=1.5, expected"),
        (("--config=phantoms_demo", "--out={out}", "--pictures=0"), "pictures"),
        (("--config=phantoms_demo", "--out={file}"), "is a file, expected a folder"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, flags, words):
    file = tmp_path / "file"
    file.write_text("x")
    done = memjax("data", *(flag.format(out=tmp_path / "out", file=file) for flag in flags))
    assert done.code == 2
    assert words in done.err
    assert sorted(tmp_path.iterdir()) == [file]

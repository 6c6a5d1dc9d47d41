"""``memjax extract``: what it asks for, what it writes, and a user's mistakes in one sentence."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.commands import memjax, read_rows, with_dropout, write_prompts

SHORT = ("--generations=4", "--num_steps=2")
LOOSE = ("--least=4", "--threshold=1")  # all generations of a prompt are alike


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_compares_with_the_runs_own_images_and_writes_a_page(run, prompts, tmp_path):
    arguments = ("extract", f"--model={run}", f"--prompts={prompts}", *SHORT, *LOOSE)
    done = memjax(*arguments, f"--out={tmp_path}/out")
    assert done.code == 0, done.err
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        *("index.html", "wall.png", "extracted.csv", "extract.json", ".lock")
    }
    found = json.loads((out / "extract.json").read_text())
    assert (found["num_prompts"], found["num_cliques"]) == (2, 2)
    assert found["training"]["source"] == "the run's own data"
    assert found["num_confirmed"] + found["num_false"] == 2
    assert found["made_by"]["options"]["threshold"] == 1
    asked = [row["id"] for row in read_rows(prompts)]
    rows = rows_of(out / "extracted.csv")
    assert [row["prompt"] for row in rows] == asked
    assert {row["generations alike"] for row in rows} == {"4"}
    assert all(row["nearest training image"].endswith(".jpg") for row in rows)
    assert f"written: {out / 'index.html'}" in done.out
    again = memjax(*arguments[:-1], "--threshold=0.001", f"--out={tmp_path}/out")
    assert again.code == 0, again.err
    assert "Nothing keeps coming back from 2 prompts." in again.out
    assert not (out / "wall.png").exists()  # the earlier start's
    assert rows_of(out / "extracted.csv") == []


def test_the_loudest_training_prompts_are_asked_for(run, tmp_path):
    done = memjax("extract", f"--model={run}", "--loudest=2", *SHORT, *LOOSE, f"--out={tmp_path}/o")
    assert done.code == 0, done.err
    assert "prompts: the loudest 2 of" in done.out
    found = json.loads((tmp_path / "o/extract.json").read_text())
    assert [p["id"].startswith("training-") for p in found["prompts"]] == [True, True]
    assert not (tmp_path / "o/scores.parts").exists()


def test_prompts_that_an_audit_flagged_are_the_default(run, tmp_path):
    model = tmp_path / "run"
    for name in ("checkpoints", "data"):
        shutil.copytree(run / name, model / name)
    for name in ("run.json", "training.json"):
        shutil.copy(run / name, model)
    arguments = ("extract", f"--model={model}", *SHORT, *LOOSE, f"--out={tmp_path}/o")
    done = memjax(*arguments)
    assert done.code == 2
    assert "holds no prompts/flagged.jsonl of an audit: give --prompts=FILE, or" in done.err
    (model / "prompts").mkdir()
    write_prompts(model / "prompts/flagged.jsonl", read_rows(run / "prompts/once.jsonl")[0])
    done = memjax(*arguments)
    assert done.code == 0, done.err
    assert "prompts: those that an audit has flagged" in done.out
    assert json.loads((tmp_path / "o/extract.json").read_text())["num_prompts"] == 1


def test_a_run_without_conditions_is_asked_once(run, tmp_path):
    model = tmp_path / "free"
    model.mkdir()
    with_dropout(run, model, 1.0)
    shutil.copytree(run / "data", model / "data")
    arguments = ("extract", f"--model={model}", *SHORT, *LOOSE, f"--out={tmp_path}/o")
    refused = memjax(*arguments, "--loudest=2")
    assert refused.code == 2
    assert "was trained without conditions: it has no prompts" in refused.err
    done = memjax(*arguments)
    assert done.code == 0, done.err
    assert [row["said"] for row in rows_of(tmp_path / "o/extracted.csv")] == ["no prompt"]


def films(folder, seeds, size=24):
    folder.mkdir()
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


def test_a_model_of_text_is_compared_with_a_folder_or_with_nothing(text_model, tmp_path):
    file = write_prompts(tmp_path / "p.jsonl", {"caption": "<b>a cat</b>"}, {"caption": "a dog"})
    arguments = ("extract", f"--model={text_model}", f"--prompts={file}", "--chunk=1")
    arguments = (*arguments, "--generations=2", "--least=2", "--threshold=1", "--num_steps=2")
    alone = memjax(*arguments, f"--out={tmp_path}/alone")
    assert alone.code == 0, alone.err
    assert "Nothing was compared with training images: give --training=DIR" in alone.out
    assert {p.name for p in (tmp_path / "alone").iterdir()} >= {"wall.png", "index.html"}
    assert "<b>a cat</b>" not in (tmp_path / "alone/index.html").read_text()
    training, held = films(tmp_path / "train", range(6)), films(tmp_path / "held", range(9, 12))
    shutil.copy(training / "3.png", training / "twin.png")
    (training / "broken.png").write_bytes(b"no image")
    folders = (f"--training={training}", f"--held_out={held}")
    done = memjax(*arguments, *folders, f"--out={tmp_path}/both")
    assert done.code == 0, done.err
    assert "1 files of train are damaged and were left out." in done.out
    assert "There are fewer than 100 different training images" in done.out
    found = json.loads((tmp_path / "both/extract.json").read_text())
    assert (found["training"]["different"], found["training"]["images"]) == (6, 7)
    assert found["background"]["of"] == 3
    nearest = {row["nearest training image"] for row in rows_of(tmp_path / "both/extracted.csv")}
    assert nearest <= {f"{i}.png" for i in range(6)}


MISTAKES = {
    "nothing given": ((), "--model and --out must be given"),
    "two sources of prompts": (("--prompts={prompts}", "--loudest=3"), "would change nothing"),
    "prompts that are not there": (("--prompts=nowhere.jsonl",), "nowhere.jsonl is not a file"),
    "held out alone": (("--held_out={folder}",), "it goes with --training=DIR"),
    "no threshold": (("--threshold=0",), "--threshold=0.0, expected a distance above 0"),
    "too few generations": (("--generations=5",), "--least=10 of --generations=5 images"),
    "training that is not there": (("--training={folder}/nowhere",), "does not exist"),
    "training in the output": (("--training={folder}/out",), "out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_before_a_model_is_read(name, tmp_path):
    file = write_prompts(tmp_path / "p.jsonl", {"caption": "a cat"})
    flags, words = MISTAKES[name]
    places = (f"--model={tmp_path}/model", f"--out={tmp_path}/out") if flags else ()
    done = memjax("extract", *places, *(f.format(prompts=file, folder=tmp_path) for f in flags))
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_the_model_cannot_do_is_one_sentence(run, prompts, text_model, tmp_path):
    base = ("extract", f"--model={run}", f"--out={tmp_path}/out")
    noisy = memjax(*base, f"--prompts={prompts}", "--stepper=ddpm")
    assert noisy.code == 2
    assert "the stepper ddpm draws noise of its own at every step" in noisy.err
    films(tmp_path / "train", range(3))
    for more in ((), (f"--training={tmp_path}/train",)):
        base = ("extract", f"--model={text_model}", "--loudest=2", f"--out={tmp_path}/out")
        alone = memjax(*base, *more)
        assert alone.code == 2
        assert "does not say what it was trained on: give --prompts=FILE." in alone.err
    assert not (tmp_path / "out").exists()

"""``memjax audit`` on a Stable-Diffusion-format model, from a folder and from prompts."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from memjax.cli.config_fields import fine_tune_config
from memjax.runs.config import plain
from memjax.studies.gallery import from_fine_tuning, from_folder, from_prompts, read_gallery
from tests.commands import memjax, read_rows, write_prompts
from tests.interop.clip.clip_folders import TEXT, VISION
from tests.interop.clip.test_clip import write as write_clip
from tests.interop.stable_diffusion.pipelines import folder as tiny_folder
from tests.models.clip.clip_cases import text_weights, vision_weights
from tests.models.published.published_cases import state

QUICK = ("--num_steps=3", "--generations=2", "--compare_at=16")
CAPTIONS = (
    "a red dog <script>x</script>",
    "the old house by the sea",
    "a small cat",
    "two boats at noon",
    "a tall green tree",
)
HELD = ("snow on the hill", "an empty room", "a city at night")


def picture(path, seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(blocks).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model; a folder with one image copied, one that says repeats; prompts with images."""
    root = tmp_path_factory.mktemp("audit")
    tiny_folder(root / "model")
    folder = root / "pictures"
    (folder / "valid").mkdir(parents=True)
    lines = []
    for number, caption in enumerate(CAPTIONS):
        for copy in range(3 if number == 0 else 1):
            name = f"{number}-{copy}.png"
            picture(folder / name, number)
            repeats = {"repeats": 7} if number == 1 else {}
            lines.append({"file_name": name, "text": caption, **repeats})
    for number, caption in enumerate(HELD):
        picture(folder / "valid" / f"{number}.png", 50 + number)
        lines.append({"file_name": f"valid/{number}.png", "text": caption})
    write_prompts(folder / "metadata.jsonl", *lines)
    write_prompts(
        root / "memorized.jsonl",
        *(
            {"id": f"m{n}", "caption": CAPTIONS[n], "image": f"pictures/{n}-0.png"}
            for n in range(3)
        ),
    )
    write_prompts(
        root / "ordinary.jsonl",
        {"caption": CAPTIONS[3], "image": "pictures/3-0.png", "family": "once"},
        *({"caption": t, "image": f"pictures/valid/{n}.png"} for n, t in enumerate(HELD)),
        {"caption": "a prompt without an image"},
    )
    save_file(state("sscd"), root / "sscd_tiny.safetensors")
    towers = {"text": text_weights(TEXT), "vision": vision_weights(VISION)}
    write_clip(root / "tiny-clip", towers, "transformers")
    return root


def test_a_folder_says_what_was_repeated(place):
    data = from_folder(str(place / "pictures"), "")
    assert sorted(record.repeats for record in data.train) == [1, 1, 1, 1, 1, 1, 7]
    gallery, kept, memorized = read_gallery(data, 32)
    assert memorized is None
    assert dict(zip((r.caption for r in kept), gallery.copies.tolist(), strict=True)) == {
        CAPTIONS[0]: 3,
        CAPTIONS[1]: 7,
        **dict.fromkeys(CAPTIONS[2:], 1),
    }
    assert gallery.train.shape == (5, 32, 32, 3)
    assert len(data.held) == 3


def test_prompts_say_what_is_memorised(place):
    data = from_prompts(str(place / "memorized.jsonl"), str(place / "ordinary.jsonl"))
    gallery, kept, memorized = read_gallery(data, 32)
    assert [r.caption for r, m in zip(kept, memorized, strict=True) if m] == list(CAPTIONS[:3])
    assert [r.caption for r, m in zip(kept, memorized, strict=True) if not m] == [CAPTIONS[3]]
    assert [r.caption for r in data.held] == list(HELD)
    assert (gallery.copies == 1).all()


@pytest.mark.thorough
@pytest.mark.slow
def test_an_audit_of_a_folder_with_all_weights(place, tmp_path):
    done = memjax(
        "audit",
        f"--model={place / 'model'}",
        f"--data={place / 'pictures'}",
        f"--workdir={tmp_path}",
        f"--features=sscd={place / 'sscd_tiny.safetensors'}",
        f"--clip={place / 'tiny-clip'}",
        *QUICK,
    )
    assert done.code == 0, done.err
    assert "CLIP score, after" in done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["detection"]["label_source"] == "repeated in training"
    assert report["detection"]["first_step"]["num_memorized"] == 2
    assert report["data"]["num_images"] == 3 + 7 + 3
    assert report["data"]["num_repeated"] == 2
    assert report["similarity"]["measured_at"].startswith("16 pixels")
    rungs = {row["name"]: row["title"] for row in report["validation"]["rungs"]}
    assert rungs["sscd"] == "sscd_tiny (short side 288, ImageNet mean/std)"
    assert rungs["pearson"].endswith(", at 16 px")
    assert report["validation"]["families"] == []  # two memorized prompts are too few
    assert report["detection"]["first_step"]["auc"] is None
    assert report["came_back"]["leads"]
    assert report["survey"]["num_scored"] == 5
    assert report["survey"]["known_repeats"]["num"] == 2
    arms = report["mitigation"]["arms"]
    assert [arm["name"] for arm in arms] == [
        "embedding_first_step",
        "embedding_optimization",
        "embedding_noise",
    ]
    assert arms[0]["magnitude_after"] < arms[0]["magnitude_before"]
    assert math.isfinite(arms[0]["clip_after"])
    assert report["clip"]["measure"].startswith("tiny-clip (")
    for prompt in report["explain"]["prompts"]:
        tokens = [token["token"] for token in prompt["tokens"]]
        assert not {"BOS", "EOS", "PAD"} & set(tokens)
        assert sum(token["share"] for token in prompt["tokens"]) == pytest.approx(1.0, abs=1e-3)
        assert 0 < prompt["specials"]["EOS"] + prompt["specials"]["PAD"] < 1
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x" in page
    assert "CLIP score" in page
    for family in ("memorized", "once", "held_out", "near_miss", "random"):
        for row in read_rows(tmp_path / f"audit_prompts/{family}.jsonl"):
            assert row["caption"]
    assert "classifier" not in report


@pytest.mark.thorough
@pytest.mark.slow
def test_an_audit_of_prompts_without_weights(place, tmp_path):
    done = memjax(
        "audit",
        f"--model={place / 'model'}",
        f"--prompts={place / 'memorized.jsonl'}",
        f"--negatives={place / 'ordinary.jsonl'}",
        f"--workdir={tmp_path}",
        *QUICK,
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["detection"]["label_source"] == "named in --prompts"
    assert report["detection"]["first_step"]["num_memorized"] == 3
    assert report["detection"]["first_step"]["against_once"]["num_other"] == 1
    assert "clip" not in report
    assert "Without CLIP" in report["notes"]
    assert "Without SSCD" in report["notes"]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_companion_gives_the_unconditional_prediction_of_a_text_model(place, tmp_path):
    done = memjax(
        "audit",
        f"--model={place / 'model'}",
        f"--data={place / 'pictures'}",
        f"--workdir={tmp_path}",
        "--null=companion",
        f"--companion={place / 'model'}",
        "--mitigations=embedding_noise",
        *QUICK,
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["provenance"]["null"] == "companion"
    assert "companion model (--null=companion)" in report["notes"]
    assert math.isfinite(report["survey"]["threshold"])


MISTAKES = {
    "no data": ((), "does not say what it was trained on", "--data=FOLDER"),
    "both kinds of data": (("--data=x", "--prompts=y"), "--data and --prompts are both given"),
    "prompts alone": (("--prompts={root}/memorized.jsonl",), "--negatives must be given too"),
    "nothing held out": (
        ("--data={root}/bare",),
        "no images that were not trained on",
        "--held_out=FOLDER",
    ),
    "no captions": (("--data={root}/plain", "--held_out={root}/pictures"), "has no caption"),
    "memorized without image": (
        ("--prompts={root}/bare.jsonl", "--negatives={root}/ordinary.jsonl"),
        "names no training image",
    ),
    "negatives without images": (
        ("--prompts={root}/memorized.jsonl", "--negatives={root}/bare.jsonl"),
        "names an image that was not trained on",
    ),
    "no folder for the report": (("--data={root}/pictures", "--nowhere"), "nowhere"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_in_one_sentence(name, place, tmp_path):
    for folder in ("bare", "plain"):
        (place / folder).mkdir(exist_ok=True)
        picture(place / folder / "1.png", 1)
    (place / "bare/1.txt").write_text("a caption")
    write_prompts(place / "bare.jsonl", {"caption": "no image here"})
    flags, *words = MISTAKES[name]
    done = memjax(
        "audit",
        f"--model={place / 'model'}",
        *(flag.format(root=place) for flag in flags),
        f"--workdir={tmp_path / 'out'}",
    )
    assert done.code == 2
    said = done.err.strip().splitlines()[-1]
    for word in words:
        assert word in said
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_folder_for_the_report_must_be_named(place):
    done = memjax("audit", f"--model={place / 'model'}", f"--data={place / 'pictures'}")
    assert done.code == 2
    assert "--workdir must be given" in done.err


@pytest.mark.slow
def test_flags_of_text_models_are_refused_for_labels(run, place):
    done = memjax("audit", f"--model={run}", f"--data={place / 'pictures'}")
    assert done.code == 2
    assert "was trained on labels" in done.err


def fine_tuned(root, **section):
    """A fine-tuned run as the command opens it, without its weights."""
    config = plain(fine_tune_config())
    config["data"] |= {"kind": "folder", "root": str(root), "size": 32}
    config["fine_tune"] |= section
    return SimpleNamespace(name="run", path=root, record={"config": config})


def test_a_fine_tuned_run_says_itself_what_it_repeated(place):
    data = from_fine_tuning(fine_tuned(place / "pictures", memorized="repeats"))
    times = {record.caption: record.repeats for record in data.train}
    assert times[CAPTIONS[1]] == 7
    assert set(times.values()) == {1, 7}
    assert len(data.held) == 3
    assert data.source == "repeated in training"


def test_images_that_were_never_shown_are_held_out_too(place):
    model = fine_tuned(place / "pictures", memorized="2", repeats=5, others_ratio=0.2)
    data = from_fine_tuning(model)
    assert sorted(record.repeats for record in data.train) == [1, 1, 5, 5]
    assert len(data.held) == 3 + (7 - 4)
    assert not {r.path for r in data.train} & {r.path for r in data.held}

"""``memjax mitigate`` on a Stable-Diffusion-format model: several targets in one run, measured."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.commands import memjax, read_rows, write_prompts
from tests.interop.clip.clip_folders import TEXT, VISION
from tests.interop.clip.test_clip import write as write_clip
from tests.interop.stable_diffusion.pipelines import folder as tiny_folder
from tests.models.clip.clip_cases import text_weights, vision_weights
from tests.models.published.published_cases import state

STEPS, GENERATIONS = 3, 2
QUICK = (f"--num_steps={STEPS}", f"--generations={GENERATIONS}", "--num_iters=4")
HOSTILE = "a red dog <script>x</script> & $y$ 漢"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, prompts with images, SSCD and CLIP weights."""
    root = tmp_path_factory.mktemp("captions")
    tiny_folder(root / "model")
    rng = np.random.default_rng(0)
    rows = []
    for number, caption in enumerate((HOSTILE, "the old house by the sea", "a small cat")):
        picture = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(picture).save(root / f"{number}.png")
        rows.append({"id": f"../{number}", "caption": caption, "image": f"{number}.png"})
    write_prompts(root / "prompts.jsonl", *rows)
    write_prompts(root / "bare.jsonl", *({k: r[k] for k in ("id", "caption")} for r in rows))
    save_file(state("sscd"), root / "sscd_tiny.safetensors")
    return root


@pytest.fixture(scope="module")
def clip(place):
    towers = {"text": text_weights(TEXT), "vision": vision_weights(VISION)}
    return write_clip(place / "tiny-clip", towers, "transformers")


def repaired(place, out, *flags, prompts="prompts.jsonl"):
    done = memjax(
        "mitigate",
        f"--model={place / 'model'}",
        f"--prompts={place / prompts}",
        f"--out={out}",
        *QUICK,
        *flags,
    )
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def several(place, clip, tmp_path_factory):
    """Three targets, baselines, SSCD and CLIP; chunks of two prompts."""
    out = tmp_path_factory.mktemp("several") / "out"
    done = repaired(
        place,
        out,
        "--targets=6,4,0",
        "--baselines=word_repetition,embedding_noise",
        "--insertions=2",
        f"--sscd={place / 'sscd_tiny.safetensors'}",
        f"--clip={clip}",
        "--chunk=2",
    )
    return out, done


@pytest.mark.thorough
def test_rows_hold_every_prompt_and_arm_with_all_measures(several):
    rows = read_rows(several[0] / "mitigated.jsonl")
    arms = ["target-6", "target-4", "target-0", "word_repetition-2", "embedding_noise-0.5"]
    assert [row["arm"] for row in rows] == arms * 3
    for row in rows:
        assert set(row["likeness"]) == {"sscd", "sscd_center_crop"}
        assert row["likeness"]["sscd"]["measure"] == "sscd_tiny (short side 288, ImageNet mean/std)"
        found = row["likeness"]["sscd"]["after"]
        assert found["min"] <= found["mean"] <= found["max"]
        assert len(found["each"]) == GENERATIONS
        assert row["clip"]["measure"].startswith("tiny-clip (short side 24 bicubic")
        assert row["provenance"]["measures"]["clip"] == row["clip"]["measure"]
        for name in [*row["images_before"], *row["images_after"]]:
            with Image.open(several[0] / name) as image:
                assert image.size == (32, 32)
    words = [row for row in rows if row["arm"].startswith("word")]
    assert all(row["caption"] != row["caption_used"] for row in words)


@pytest.mark.thorough
def test_targets_are_left_in_their_order_and_only_the_optimiser_lowers(several):
    rows = read_rows(several[0] / "mitigated.jsonl")
    for row in rows:
        if not row["arm"].startswith("target"):
            assert "iterations" not in row
            continue
        # Sampling starts at the noise that was optimized: the first step is the statistic.
        assert row["first_step_after"] == pytest.approx(32 * row["statistic_rms_after"], rel=1e-4)
        assert row["first_step_before"] == pytest.approx(32 * row["statistic_rms_before"], rel=1e-4)
        assert row["target_rms"] == pytest.approx(row["target"] / 32)
        if row["arm"] == "target-0":
            assert row["iterations"] == 4
        elif row["reached"]:
            assert row["first_step_after"] <= row["target"] * (1 + 1e-4)
    by_prompt = [[r["iterations"] for r in rows[i : i + 3]] for i in range(0, len(rows), 5)]
    assert all(sorted(updates) == updates for updates in by_prompt)
    assert any(updates[0] < updates[-1] for updates in by_prompt)  # the targets do differ


@pytest.mark.thorough
def test_one_target_alone_gives_the_same_embeddings_and_images(several, place, tmp_path):
    repaired(place, tmp_path / "one", "--target=4", "--chunk=2")
    with (
        np.load(tmp_path / "one/embeddings.npz") as one,
        np.load(several[0] / "embeddings.npz") as all_of_them,
    ):
        assert one["after"].shape == one["before"].shape
        assert all_of_them["after"].shape == (3, *one["before"].shape)
        np.testing.assert_allclose(all_of_them["targets_rms"], [6 / 32, 4 / 32, 0])
        # Two programs of float32: Adam's steps of 0.05 agree to their last bits.
        np.testing.assert_allclose(all_of_them["after"][1], one["after"], atol=1e-5)
        assert not (one["after"] - one["before"])[:, 0].any()  # BOS
    rows = {r["id"]: r for r in read_rows(several[0] / "mitigated.jsonl") if r["arm"] == "target-4"}
    for row in read_rows(tmp_path / "one/mitigated.jsonl"):
        assert row["iterations"] == rows[row["id"]]["iterations"]
        assert row["magnitude_after"] == pytest.approx(rows[row["id"]]["magnitude_after"], rel=1e-3)
        assert set(row["likeness"]) == {"pixel_correlation", "tiled_distance"}  # no weights
        assert "clip" not in row


@pytest.mark.thorough
def test_the_page_shows_captions_as_text_and_the_curve_has_its_csv(several):
    page = (several[0] / "mitigation.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x" in page
    assert page.count("data:image/png;base64,") == 2  # the curve and the wall
    assert "tiny-clip" in page
    with open(several[0] / "figures/tradeoff.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["kind"] for row in table] == ["before"] + ["target"] * 3 + ["baseline"] * 2
    rows = read_rows(several[0] / "mitigated.jsonl")
    for line in table[1:]:
        own = [row for row in rows if row["arm"] == line["arm"]]
        mean = np.mean([row["likeness"]["sscd"]["after"]["mean"] for row in own])
        assert float(line["sscd"]) == pytest.approx(mean, abs=1e-5)
        score = np.mean([row["clip"]["after"]["mean"] for row in own])
        assert float(line["clip_score"]) == pytest.approx(score, abs=1e-5)
    with Image.open(several[0] / "before_after.png") as wall:
        assert wall.width == 1960


@pytest.mark.thorough
def test_the_table_holds_every_value_behind_the_rows(several):
    with (several[0] / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row in read_rows(several[0] / "mitigated.jsonl"):
        own = [t for t in table if (t["prompt"], t["arm"]) == (row["id"], row["arm"])]
        seen = [float(t["value"]) for t in own if t["metric"] == "noise_magnitude"]
        assert row["magnitude_after"] == pytest.approx(np.mean(seen), rel=1e-4)
        likeness = [float(t["value"]) for t in own if t["metric"] == "likeness_sscd"]
        assert likeness == pytest.approx(row["likeness"]["sscd"]["after"]["each"], abs=1e-4)
        assert len([t for t in own if t["metric"] == "clip"]) == GENERATIONS
    before = [float(t["value"]) for t in table if t["arm"] == "as_asked" and t["step"]]
    assert len(before) == 3 * GENERATIONS * 3  # prompts, images, steps


@pytest.mark.thorough
def test_mitigations_by_name_change_noise_and_guidance_and_are_told_apart(place, tmp_path):
    """Prompts with noise of their own go through sampling, files, wall and page."""
    chains = "initial_noise:gamma=3", "word_repetition+initial_noise+guidance_delay:until=0.7"
    repaired(place, tmp_path / "out", f"--mitigations={','.join(chains)}", "--chunk=2")
    rows = read_rows(tmp_path / "out/mitigated.jsonl")
    arms = ["initial_noise-gamma-3", "word_repetition-initial_noise-guidance_delay-until-0.7"]
    assert [row["arm"] for row in rows] == arms * 3
    for row in rows:
        assert row["first_step_after"] != pytest.approx(row["first_step_before"], rel=1e-4)
        assert ("caption_used" in row) == (row["arm"] == arms[1])
        for name in row["images_after"]:
            assert (tmp_path / "out" / name).is_file()
    with np.load(tmp_path / "out/embeddings.npz") as found:
        assert found["arms"].tolist() == arms
        assert found["after"].shape == (2, *found["before"].shape)
        np.testing.assert_array_equal(found["after"][0], found["before"])
    with open(tmp_path / "out/figures/tradeoff.csv", newline="") as file:
        assert [row["kind"] for row in csv.DictReader(file)] == ["before", "named", "named"]
    page = (tmp_path / "out/mitigation.html").read_text()
    assert "word repetition + initial noise + guidance delay (until 0.7)" in page


def test_a_stopped_run_goes_on_and_leaves_no_parts(place, monkeypatch, tmp_path):
    """The second chunk's repair fails once; what was done before is not made again."""
    from memjax.cli import mitigate_run

    class Failing(mitigate_run.Measured):
        def __call__(self, arm, chunk):
            seen.append((arm, chunk.numbers.tolist()))
            if seen[-1] == ("target-0", [2]) and seen.count(seen[-1]) == 1:
                raise ValueError("the power went")
            return super().__call__(arm, chunk)

    seen = []
    monkeypatch.setattr(mitigate_run, "Measured", Failing)
    out = tmp_path / "out"
    flags = ("mitigate", f"--model={place / 'model'}", f"--prompts={place / 'bare.jsonl'}")
    flags = (*flags, f"--out={out}", *QUICK, "--chunk=2", "--nopictures")
    first = memjax(*flags)
    assert first.code == 2
    assert "the power went" in first.err
    assert len(list((out / "parts").glob("part-*.npz"))) == 3
    assert memjax(*flags).code == 0
    first, last = [("before", [0, 1]), ("target-0", [0, 1])], ("target-0", [2])
    assert seen == [*first, ("before", [2]), last, last]
    assert not (out / "parts").exists()
    assert not (out / "pictures").exists()
    rows = read_rows(out / "mitigated.jsonl")
    assert [row["id"] for row in rows] == ["../0", "../1", "../2"]
    assert all(row["iterations"] == 4 for row in rows)  # no target: all updates
    assert all(row["statistic_rms_after"] < row["statistic_rms_before"] for row in rows)
    assert rows[0]["provenance"]["method"] == "embedding_first_step"
    assert rows[0]["provenance"]["repair"]["weight_decay"] == 0.01
    page = (out / "mitigation.html").read_text()
    assert "no prompt names one" in page


MISTAKES = {
    "a target that is no number": (("--targets=1,x",), "--targets holds 'x', expected numbers"),
    "a negative target": (("--targets_rms=-1",), "--targets_rms holds '-1'"),
    "two kinds of targets": (("--target=1", "--targets=1,2"), "--target and --targets are both"),
    "an unknown baseline": (("--baselines=luck",), "'luck', expected names out of random_word"),
    "insertions that are words": (("--insertions=many",), "--insertions=many: expected whole"),
    "SSCD that is not there": (("--sscd={root}/none.pt",), "none.pt is not there", "downloaded"),
    "CLIP that is no folder": (("--clip={root}/0.png",), "0.png is not a folder"),
    "references that are no folder": (("--references={root}/0.png",), "is not a folder"),
    "another method's steps": (
        ("--method=embedding_first_step", "--steps=1,2"),
        "--steps=1,2 with --method=embedding_first_step",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_in_one_sentence_and_nothing_is_written(name, place, tmp_path):
    flags, *words = MISTAKES[name]
    done = memjax(
        "mitigate",
        f"--model={place / 'model'}",
        f"--prompts={place / 'prompts.jsonl'}",
        f"--out={tmp_path / 'out'}",
        *(flag.format(root=place) for flag in flags),
    )
    assert done.code == 2
    said = done.err.strip().splitlines()[-1]
    for word in words:
        assert word in said
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("image", "word"),
    [
        ("gone.png", "which is not at"),
        ("https://example.org/a.png", "nothing is downloaded"),
        ([3], "expected a path or a list of paths"),
        ("prompts.jsonl", "cannot be decoded"),
    ],
)
def test_training_images_that_cannot_be_had_are_named(image, word, place, tmp_path):
    file = write_prompts(place / "odd.jsonl", {"id": "odd", "caption": "a dog", "image": image})
    done = memjax(
        "mitigate", f"--model={place / 'model'}", f"--prompts={file}", f"--out={tmp_path}", *QUICK
    )
    assert done.code == 2
    assert word in done.err.strip().splitlines()[-1]
    assert "Traceback" not in done.err


def test_sscd_without_training_images_is_refused(place, tmp_path):
    done = memjax(
        "mitigate",
        f"--model={place / 'model'}",
        f"--prompts={place / 'bare.jsonl'}",
        f"--out={tmp_path}",
        f"--sscd={place / 'sscd_tiny.safetensors'}",
    )
    assert done.code == 2
    assert "no prompt has one" in done.err


def test_references_come_from_a_folder_of_ids(place, tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "b").mkdir(parents=True)
    shutil.copy(place / "0.png", pictures / "a.png")
    for name in ("1.png", "2.png"):
        shutil.copy(place / name, pictures / "b" / name)
    file = write_prompts(
        tmp_path / "p.jsonl",
        *({"id": name, "caption": f"a {name} dog"} for name in ("a", "b", "c")),
    )
    from memjax.runs.references import reference_paths

    found = reference_paths(read_rows(file), file, str(pictures))
    assert [[path.name for path in paths] for paths in found] == [
        ["a.png"],
        ["1.png", "2.png"],
        [],
    ]
    assert json.dumps([len(paths) for paths in found]) == "[1, 2, 0]"

"""Every command on one short run: what it writes is what its docstring says."""

import csv
import json
import math
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.commands import as_if_trained, memjax, read_rows, with_dropout, write_prompts

pytestmark = pytest.mark.slow

DETECTOR = "auc, auc_low, auc_high, tpr_at_1pct_fpr, num_memorized, num_other, forward_evals"
REPORT = {
    "detection.first_step": DETECTOR,
    "detection.first_k": DETECTOR,
    "detection.all_steps": DETECTOR,
    "similarity": "copy_rate_memorized, copy_rate_other, copy_rate_background",
    "mitigation": (
        "copy_rate_before, copy_rate_after, label_agreement_before, label_agreement_after"
    ),
    "training": "steps, images_per_second, seconds",
}
STEPS, GENERATIONS = 8, 2  # of phantoms_demo:short


@pytest.fixture(scope="session")
def report(run):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads((run / "report.json").read_text(), parse_constant=refuse)


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def section_of(report, dotted):
    for name in dotted.split("."):
        report = report[name]
    return report


@pytest.mark.parametrize("section", sorted(REPORT))
def test_report_holds_every_figure_as_a_finite_number_or_null(report, section):
    found = section_of(report, section)
    for name in REPORT[section].split(", "):
        value = found[name]
        assert value is None or (type(value) in (int, float) and math.isfinite(value)), name


def test_report_says_what_it_was_made_with(report):
    assert report["detection"]["default"] == "first_k"
    assert {"jax", "flax", "memjax", "python"} <= set(report["versions"])
    assert report["config"]["train"]["steps"] == report["training"]["steps"] == 20
    assert report["seed"] == report["config"]["seed"] == 0
    assert report["training"]["images_per_second"] > 0
    assert report["training"]["seconds"] > 0
    assert report["provenance"]["checkpoint_step"] == 20


def test_report_counts_prompts_and_evaluations(report, run):
    counts = {f: len(read_rows(run / f"prompts/{f}.jsonl")) for f in ("memorized", "once")}
    held_out = len(read_rows(run / "prompts/held_out.jsonl"))
    assert counts == {"memorized": 3, "once": 5}
    assert held_out == 5
    found = report["detection"]
    total = 3 + 5 + held_out
    assert found["first_step"]["num_memorized"] == 3
    assert found["first_step"]["num_other"] == 10
    assert found["first_step"]["against_once"]["num_other"] == 5
    assert found["first_step"]["forward_evals"] == GENERATIONS * (total + 1)
    assert found["first_k"]["k"] == 4
    assert found["first_k"]["forward_evals"] == 2 * total * GENERATIONS * 4
    assert found["all_steps"]["forward_evals"] == 2 * total * GENERATIONS * STEPS
    others = sum(
        len(read_rows(run / f"prompts/{f}.jsonl")) for f in ("near_miss", "random", "loudest")
    )
    assert others > 0
    assert found["forward_evals_run"] == 2 * (total + others) * GENERATIONS * STEPS


def test_report_shows_the_chosen_mitigation_beside_the_others(report):
    arms = report["mitigation"]["arms"]
    assert [arm["name"] for arm in arms] == report["config"]["audit"]["options"]["arms"]
    assert report["mitigation"]["method"] == arms[0]["name"] == "embedding_optimization"
    assert report["mitigation"]["copy_rate_after"] == arms[0]["copy_rate_after"]
    assert arms[0]["magnitude_after"] < arms[0]["magnitude_before"]


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]


def test_report_page_needs_no_other_file(run):
    text = (run / "report.html").read_text()
    page = _Links()
    page.feed(text)
    assert sum(link.startswith("data:image/png;base64,") for link in page.links) >= 5
    beside = [link for link in page.links if not link.startswith(("data:", "#"))]
    assert len(beside) >= 5  # the numbers behind the figures, for who wants them
    assert all((run / link).is_file() and link.endswith(".csv") for link in beside)
    assert not {"link", "script", "iframe"} & set(page.tags)
    assert "@import" not in text
    assert "url(http" not in text


def test_demo_prints_a_short_table_and_where_the_report_is(demo):
    folder, done = demo
    assert done.out.rstrip().endswith(f"report: {folder / 'report.html'}")
    assert "AUC (first_k)" in done.out
    assert "copies after mitigation" in done.out
    assert "images/s" in done.out + done.err
    assert "left" in done.out + done.err


def test_prompt_files_can_be_read_by_the_other_commands(run):
    for family in ("memorized", "once", "held_out"):
        for row in read_rows(run / f"prompts/{family}.jsonl"):
            assert row["family"] == family
            assert row["labels"]


def test_training_leaves_metrics_and_checkpoints(run):
    rows = read_rows(run / "metrics.jsonl")
    assert rows[-1]["step"] == 20
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert list((run / "tensorboard").glob("events.*"))
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"10", "20"}


# detect


def detect(run, prompts, out, *flags):
    done = memjax("detect", f"--model={run}", f"--prompts={prompts}", f"--out={out}", *flags)
    assert done.code == 0, done.err
    return read_rows(out), done


@pytest.fixture(scope="session")
def first(run, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("detect") / "first.jsonl"
    return detect(run, prompts, out, "--steps=first", "--generations=3")


@pytest.fixture(scope="session")
def whole(run, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("detect") / "all.jsonl"
    return detect(run, prompts, out, "--generations=2")


@pytest.mark.parametrize("scored", ["first", "whole"])
def test_rows_repeat_the_prompt_and_add_scores(scored, request, prompts):
    rows, _ = request.getfixturevalue(scored)
    shape = {"first": (3, 1), "whole": (2, STEPS)}[scored]
    assert len(rows) == 2
    for row, prompt in zip(rows, read_rows(prompts), strict=True):
        assert {name: row[name] for name in prompt} == prompt
        assert set(row) - set(prompt) == {"score", "score_rms", "per_step", "provenance"}
        assert np.shape(row["per_step"]) == shape
        assert row["score"] == pytest.approx(np.mean(row["per_step"]), abs=2e-6)
        assert row["score_rms"] == pytest.approx(row["score"] / 32, rel=1e-9)  # √(32·32)
        assert row["score"] > 0


def test_provenance_names_checkpoint_seed_and_settings(first):
    made = first[0][0]["provenance"]
    assert made["checkpoint_step"] == 20
    assert made["seed"] == 0
    assert made["steps"] == "first"
    assert made["null"] == "trained"
    assert made["sampling"]["num_steps"] == STEPS
    assert {"jax", "memjax"} <= set(made["versions"])


def test_first_step_computes_the_unconditional_half_once(first, whole):
    assert first[0][0]["provenance"]["forward_evals"] == 3 * (2 + 1)
    assert whole[0][0]["provenance"]["forward_evals"] == 2 * 2 * 2 * STEPS
    assert "scored with 9 forward evaluations" in first[1].out


def test_a_number_of_steps_is_the_beginning_of_all_of_them(run, prompts, whole, tmp_path):
    rows, _ = detect(run, prompts, tmp_path / "k.jsonl", "--generations=2", "--steps=3")
    assert rows[0]["provenance"]["forward_evals"] == 2 * 2 * 2 * 3
    for row, full in zip(rows, whole[0], strict=True):
        expected = np.asarray(full["per_step"])[:, :3]
        np.testing.assert_allclose(row["per_step"], expected, rtol=1e-4, atol=2e-6)


def test_the_seed_decides_the_scores(run, prompts, first, tmp_path):
    same, _ = detect(run, prompts, tmp_path / "a.jsonl", "--steps=first", "--generations=3")
    other, _ = detect(
        run, prompts, tmp_path / "b.jsonl", "--steps=first", "--generations=3", "--seed=1"
    )
    assert [r["score"] for r in same] == [r["score"] for r in first[0]]
    assert [r["score"] for r in other] != [r["score"] for r in first[0]]


def test_initial_noise_is_shared_and_decides_the_scores(run, prompts, tmp_path):
    noise = np.random.default_rng(3).standard_normal((3, 32, 32, 1)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    flags = ("--steps=first", "--generations=3", f"--initial_noise={tmp_path / 'noise.npy'}")
    rows, _ = detect(run, prompts, tmp_path / "a.jsonl", *flags)
    again, _ = detect(run, prompts, tmp_path / "b.jsonl", *flags, "--seed=9")
    assert [r["per_step"] for r in rows] == [r["per_step"] for r in again]
    assert rows[0]["provenance"]["initial_noise"] == "noise.npy"
    swapped = write_prompts(tmp_path / "swapped.jsonl", *read_rows(prompts)[::-1])
    turned, _ = detect(run, swapped, tmp_path / "c.jsonl", *flags)
    for row, other in zip(rows, turned[::-1], strict=True):
        np.testing.assert_allclose(row["per_step"], other["per_step"], rtol=1e-4)


def test_negatives_give_a_threshold_a_verdict_and_a_summary(run, prompts, negatives, tmp_path):
    out = tmp_path / "scores.jsonl"
    rows, done = detect(
        run,
        prompts,
        out,
        "--steps=first",
        "--generations=3",
        f"--negatives={negatives}",
        "--target_fpr=0.3",
    )
    summary = json.loads((tmp_path / "scores.summary.json").read_text())
    assert len(rows) == 2
    for row in rows:
        assert row["flagged"] == (row["score"] > summary["threshold"])
        assert row["provenance"]["forward_evals"] == 3 * (2 + 5 + 1)
    assert summary["threshold_rms"] == pytest.approx(summary["threshold"] / 32)
    assert (summary["num_memorized"], summary["num_other"]) == (2, 5)
    assert summary["auc_low"] <= summary["auc"] <= summary["auc_high"]
    assert summary["target_fpr"] == 0.3
    assert "threshold" in done.out


def test_a_caption_and_its_labels_score_the_same(run, tmp_path):
    labels = {"Edema": "positive", "Cardiomegaly": "negative", "view": "AP", "sex": "Male"}
    file = write_prompts(
        tmp_path / "both.jsonl",
        {"id": "labels", "labels": {**labels, "age": 62}},
        {"caption": "Frontal AP view, male, age 60-64: no cardiomegaly, edema", "note": [1]},
    )
    rows, _ = detect(run, file, tmp_path / "out.jsonl", "--steps=first", "--generations=3")
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], rel=1e-6)
    assert rows[1]["id"] == "prompt-0001"
    assert rows[1]["note"] == [1]


def test_random_labels_stand_in_for_a_null_that_was_not_trained(run, prompts, tmp_path):
    bare = with_dropout(run, tmp_path / "bare", 0.0)
    flags = ("--steps=first", "--generations=3", "--null=random_labels")
    rows, _ = detect(bare, prompts, tmp_path / "out.jsonl", *flags)
    assert rows[0]["provenance"]["null"] == "random_labels"
    assert rows[0]["provenance"]["forward_evals"] == 3 * (2 + 8)
    assert rows[0]["score"] > 0


def test_a_companion_stands_in_for_a_null_that_was_not_trained(run, prompts, first, tmp_path):
    """The companion has the run's own weights here, so the scores are the trained null's."""
    bare = with_dropout(run, tmp_path / "bare", 0.0)
    other = with_dropout(run, tmp_path / "companion", 1.0)
    flags = ("--steps=first", "--generations=3", "--null=companion", f"--companion={other}")
    rows, _ = detect(bare, prompts, tmp_path / "out.jsonl", *flags)
    for row, expected in zip(rows, first[0], strict=True):
        np.testing.assert_allclose(row["per_step"], expected["per_step"], rtol=1e-4)


# sample, explain, mitigate, audit, train again


def test_sample_makes_images_and_says_how(run, prompts, tmp_path):
    out = tmp_path / "pictures"
    flags = (f"--model={run}", f"--prompts={prompts}", "--generations=2", "--num_steps=3")
    done = memjax("sample", *flags, f"--out={out}", "--stepper=dpm-solver++")
    assert done.code == 0, done.err
    rows = read_rows(out / "prompts.jsonl")
    assert [len(row["images"]) for row in rows] == [2, 2]
    assert (out / "grid.png").is_file()
    pictures = [picture(out / name) for row in rows for name in row["images"]]
    assert {p.shape[:2] for p in pictures} == {(32, 32)}
    assert len({p.tobytes() for p in pictures}) == 4
    made = rows[0]["provenance"]
    assert made["sampling"]["stepper"] == "dpm-solver++"
    assert made["sampling"]["num_steps"] == 3
    assert memjax("sample", *flags, f"--out={tmp_path / 'b'}", "--stepper=dpm-solver++").code == 0
    for name in rows[0]["images"]:
        assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes()


def test_ids_that_make_the_same_file_name_keep_images_of_their_own(run, tmp_path):
    labels = {"view": "AP"}
    file = write_prompts(
        tmp_path / "p.jsonl",
        {"id": "../a b", "labels": labels},
        {"id": "../a/b", "labels": labels},
    )
    out = tmp_path / "deep" / "out"
    flags = ("--generations=2", "--num_steps=3", "--stepper=dpm-solver++")
    assert memjax("sample", f"--model={run}", f"--prompts={file}", f"--out={out}", *flags).code == 0
    names = [name for row in read_rows(out / "prompts.jsonl") for name in row["images"]]
    assert len(set(names)) == 4
    assert {p.name for p in out.iterdir()} == {*names, "grid.png", "prompts.jsonl", ".lock"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_explain_draws_a_chart_and_one_weight_a_token(run, prompts, tmp_path):
    out = tmp_path / "why"
    done = memjax(
        "explain",
        f"--model={run}",
        f"--prompts={prompts}",
        f"--out={out}",
        "--every=4",
        "--generations=2",
    )
    assert done.code == 0, done.err
    rows = read_rows(out / "tokens.jsonl")
    for row, prompt in zip(rows, read_rows(prompts), strict=True):
        assert row["labels"] == prompt["labels"]
        assert len(row["tokens"]) == 1 + 14 + 3 + 2  # BOS, findings, view, sex, age, markers
        names = [token["token"] for token in row["tokens"]]
        assert f"Marker 1: {prompt['labels']['markers'][0]}" in names
        assert [word["word"] for word in row["words"]] == names[1:]
        weights = [token["weight"] for token in row["tokens"]]
        assert all(math.isfinite(w) and w >= 0 for w in weights)
        assert max(weights) > 0
        assert picture(out / row["picture"]).ndim == 3
    assert rows[0]["provenance"]["steps"] == [0, 4]
    assert "Marker 1" in (out / "words.html").read_text()
    assert rows[0]["provenance"]["attribution"] == "grad_norm"


def test_mitigate_moves_what_it_may_and_lowers_the_magnitude(run, prompts, tmp_path):
    out = tmp_path / "repaired"
    done = memjax(
        "mitigate",
        f"--model={run}",
        f"--prompts={prompts}",
        f"--out={out}",
        "--generations=2",
        "--protect=findings,view",
    )
    assert done.code == 0, done.err
    rows = read_rows(out / "mitigated.jsonl")
    assert all(row["magnitude_after"] < row["magnitude_before"] for row in rows)
    assert rows[0]["provenance"]["method"] == "embedding_optimization"
    assert rows[0]["provenance"]["options"]["protect"] == ["findings", "view"]
    with np.load(out / "embeddings.npz", allow_pickle=False) as arrays:
        moved = np.abs(arrays["after"] - arrays["before"]).max(axis=-1) > 0
        assert arrays["ids"].tolist() == [row["id"] for row in rows]
    fixed = 1 + 14 + 1  # BOS, findings, view
    assert not moved[:, :fixed].any()
    assert moved[:, fixed:].all()
    assert picture(out / "before_after.png").shape[1] > picture(out / "before_after.png").shape[0]


def test_audit_gives_the_demos_figures_again(run, report, tmp_path):
    """The audit's seed decides everything, so a second audit of a run says the same."""
    short = tmp_path / "run"
    shutil.copytree(run, short, ignore=shutil.ignore_patterns("report*", "prompts", "tensorboard"))
    record = json.loads((short / "run.json").read_text())
    record["config"]["audit"]["options"]["arms"] = ["embedding_noise"]
    (short / "run.json").write_text(json.dumps(record))
    done = memjax("audit", f"--model={short}", f"--workdir={tmp_path / 'report'}")
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "report" / "report.json").read_text())
    assert again["similarity"] == report["similarity"]
    for name in ("first_step", "first_k", "all_steps"):
        assert again["detection"][name] == report["detection"][name]
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (short / "report.json").exists()


def test_a_finished_run_stays_as_it_is(run, tmp_path):
    finished = tmp_path / "run"
    shutil.copytree(run, finished)
    before = json.loads((finished / "training.json").read_text())
    done = memjax("train", "--config=phantoms_demo:short", f"--workdir={finished}")
    assert done.code == 0, done.err
    after = json.loads((finished / "training.json").read_text())
    assert after["images_per_second"] == before["images_per_second"] > 0
    assert after["steps"] == 20
    old, new = (json.loads((folder / "run.json").read_text()) for folder in (run, finished))
    old["data"]["root"] = new["data"]["root"]  # the copy's images lie in the copy
    assert new == old


def test_doctor_says_what_is_there():
    done = memjax("doctor")
    assert done.code == 0
    for word in ("jax", "orbax-checkpoint", "cpu", "phantoms_demo", "all that is needed is there"):
        assert word in done.out


@pytest.mark.parametrize(
    "name",
    [
        *("demo", "train", "sample", "detect", "explain", "mitigate", "audit", "copies"),
        *("extract", "bench", "doctor"),
    ],
)
def test_help_names_every_flag(name):
    done = memjax(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"memjax {name}")
    expected = {"detect": "--initial_noise", "train": "--config.train.steps=200"}
    assert expected.get(name, "--") in done.out or name == "doctor"


def test_audit_of_a_run_obeys_the_flags_of_sampling(run, tmp_path):
    short = tmp_path / "run"
    shutil.copytree(run, short, ignore=shutil.ignore_patterns("report*", "prompts", "tensorboard"))
    asked = ("--num_steps=3", "--guidance_scale=50", "--seed=9", "--generations=1")
    refused = memjax("audit", f"--model={short}", *asked, "--stepper=ddpm")
    assert refused.code == 2
    assert "the stepper ddpm draws noise of its own" in refused.err
    assert "scoring" not in refused.err
    done = memjax("audit", f"--model={short}", *asked, "--stepper=dpm-solver++", "--mitigations=")
    assert done.code == 0, done.err
    report = json.loads((short / "report.json").read_text())
    sampling = report["provenance"]["sampling"]
    found = [sampling[name] for name in ("num_steps", "guidance_scale", "stepper")]
    assert found == [3, 50.0, "dpm-solver++"]
    assert report["seed"] == 9
    assert report["detection"]["generations"] == 1
    with open(short / "table.csv") as file:
        assert {row["generation"] for row in csv.DictReader(file)} == {"0"}


def test_a_run_of_an_older_version_is_audited_with_the_defaults_of_new_fields(run, tmp_path):
    from memjax.runs.model import load_model

    def older(config):
        del config["data"]["uncertainty"]
        config.get("audit", {}).pop("rungs", None)

    as_if_trained(run, tmp_path, older)
    config = load_model(str(tmp_path)).config
    assert "ssim" in config["audit"]["rungs"]
    assert config["data"]["uncertainty"] == "multiclass"
    assert config["train"]["steps"] == 20  # what it has stays

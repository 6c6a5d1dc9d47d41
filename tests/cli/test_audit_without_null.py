"""``memjax audit`` of models without a null condition, and of models without conditions."""

import csv
import json
import math
import re
import shutil

import pytest

from tests.commands import memjax, read_rows, with_dropout

pytestmark = pytest.mark.slow

GENERATIONS = 2  # of phantoms_demo:short
# What needs least comes first.
FREE = ["update_norm", "denoising_confidence", "trajectory_decomposition"]


def run_as(run, folder, cond_dropout):
    """Copies a run with its data and few rungs, as if trained with another condition dropout."""
    with_dropout(run, folder, cond_dropout)
    shutil.copytree(run / "data", folder / "data")
    record = json.loads((folder / "run.json").read_text())
    record["config"]["audit"]["rungs"] = ["adaptive_l2", "pixel_l2"]
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def bare(run, tmp_path_factory):
    return run_as(run, tmp_path_factory.mktemp("bare") / "run", 0.0)


@pytest.fixture(scope="module")
def free(run, tmp_path_factory):
    return run_as(run, tmp_path_factory.mktemp("free") / "run", 1.0)


def audited(model, folder, *flags):
    done = memjax("audit", f"--model={model}", f"--workdir={folder}", *flags)
    assert done.code == 0, done.err
    return json.loads((folder / "report.json").read_text()), done


@pytest.fixture(scope="module")
def without_null(bare, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_null")
    return (*audited(bare, folder), folder)


@pytest.fixture(scope="module")
def without_conditions(free, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_conditions")
    return (*audited(free, folder), folder)


def metrics(folder):
    with open(folder / "table.csv") as file:
        return list(csv.DictReader(file))


def test_detectors_and_mitigations_whose_needs_are_met_are_measured(without_null):
    report, done, folder = without_null
    rows = {row["name"]: row for row in report["detectors"]["rows"]}
    assert list(rows) == FREE
    for row in rows.values():
        assert all(math.isfinite(row[key]) for key in ("auc", "auc_low", "auc_high"))
        assert (row["num_memorized"], row["num_other"]) == (3, 10)
    assert report["detection"]["signal"]["name"] == FREE[0]
    assert report["similarity"]["copy_rate_memorized"] is not None
    arms = [arm["name"] for arm in report["mitigation"]["arms"]]
    assert arms == ["embedding_noise", "random_condition_change"]
    assert all(math.isfinite(arm["signal_after"]) for arm in report["mitigation"]["arms"])
    assert report["explain"]["prompts"] == []
    for rung in report["validation"]["rungs"]:
        assert math.isfinite(rung["spearman"])
        assert math.isfinite(rung["similarity_after"])
    assert [family["name"] for family in report["validation"]["families"]][-1] == "all"
    assert report["distribution"]
    measured = {row["metric"] for row in metrics(folder)}
    assert {"copy_distance", "likeness_pixel_l2", *FREE} <= measured
    assert "noise_magnitude" not in measured
    assert f"AUC ({FREE[0]})" in done.out
    assert len(read_rows(folder / "prompts/memorized.jsonl")) == 3


def test_no_guidance_takes_place_and_that_is_said(without_null):
    report, _, _ = without_null
    assert report["provenance"]["null"] == "none"
    assert report["provenance"]["sampling"]["guidance_scale"] == 1.0
    assert "guidance scale 3 is not used" in report["notes"]


@pytest.mark.parametrize("which", ["without_null", "without_conditions"])
def test_one_sentence_says_what_was_left_out_and_how_to_have_it(which, request):
    report, done, folder = request.getfixturevalue(which)
    left_out = report["left_out"]
    assert left_out["detectors"] == ["noise_magnitude"]
    assert "embedding_optimization" in left_out["mitigations"]
    assert left_out["explanations"] == ["token_significance"]
    way_out = {
        "without_null": "--null=random_labels",
        "without_conditions": "train with train.cond_dropout below 1",
    }[which]
    assert way_out in left_out["sentence"]
    html = (folder / "report.html").read_text()
    page = " ".join(re.sub("</?code>", "", html).split())
    assert page.count(left_out["sentence"]) == 1
    assert left_out["sentence"] in done.out
    for text in (page, done.out):
        assert "not measured" not in text.lower()
        assert "was left out: it needs" not in text


def test_a_model_without_conditions_is_asked_for_images_from_seeds(without_conditions, run):
    report, done, folder = without_conditions
    families = ("memorized", "once", "held_out", "near_miss", "random")
    prompts = sum(len(read_rows(run / f"prompts/{family}.jsonl")) for family in families)
    samples = report["samples"]
    assert samples["num"] == prompts * GENERATIONS
    assert sum(row["samples"] for row in report["returned"]["images"]) == samples["num_copied"]
    assert report["similarity"]["copy_rate_sample"] == samples["num_copied"] / samples["num"]
    assert samples["num_repeated"] == 3
    rows = metrics(folder)
    distances = [row for row in rows if row["metric"] == "copy_distance"]
    assert len(distances) == len({row["prompt"] for row in distances}) == samples["num"]
    assert {row["metric"] for row in rows} >= {*FREE, "likeness_pixel_l2"}
    assert [row["name"] for row in report["detectors"]["rows"]] == FREE
    assert all(math.isfinite(rung["spearman"]) for rung in report["validation"]["rungs"])
    assert "mitigation" not in report
    page = (folder / "report.html").read_text()
    assert f"Of {samples['num']} images made from {samples['num']} seeds" in page
    assert "emorised prompt" not in page
    assert "emorized prompt" not in page
    assert not (folder / "prompts").exists()
    assert "training images that came back" in done.out


def test_random_labels_give_the_magnitude_back(bare, tmp_path):
    report, done = audited(
        bare, tmp_path, "--null=random_labels", "--mitigations=embedding_first_step"
    )
    chosen = report["detection"][report["detection"]["default"]]
    assert math.isfinite(chosen["auc"])
    assert "left_out" not in report
    assert report["provenance"]["null"] == "random_labels"
    assert "mean prediction over 8 random conditions" in report["notes"]
    arm = report["mitigation"]["arms"][0]
    assert arm["name"] == "embedding_first_step"
    assert arm["magnitude_before"] > 0
    assert len(report["explain"]["prompts"]) == 3
    assert "AUC (first_k)" in done.out


@pytest.mark.thorough
def test_a_companion_gives_the_figures_of_the_trained_null(bare, free, run, tmp_path):
    """The companion has the run's own weights here."""
    report, _ = audited(
        bare,
        tmp_path,
        "--null=companion",
        f"--companion={free}",
        "--mitigations=embedding_noise",
    )
    demo = json.loads((run / "report.json").read_text())
    assert report["provenance"]["null"] == "companion"
    for name in ("first_step", "first_k", "all_steps"):
        expected = {k: v for k, v in demo["detection"][name].items() if k.startswith("auc")}
        found = {k: report["detection"][name][k] for k in expected}
        assert found == pytest.approx(expected, abs=1e-6)  # ranks alone decide


def test_a_model_without_conditions_takes_no_substitute(free, tmp_path):
    done = memjax("audit", f"--model={free}", f"--workdir={tmp_path / 'a'}", "--null=random_labels")
    assert done.code == 2
    assert "trained without conditions" in done.err
    assert not (tmp_path / "a").exists()


def test_tokens_are_explained_with_a_substitute(bare, prompts, tmp_path):
    flags = (f"--model={bare}", f"--prompts={prompts}", f"--out={tmp_path / 'why'}", "--every=4")
    done = memjax("explain", *flags, "--generations=1", "--null=random_labels")
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "why" / "tokens.jsonl")
    assert max(token["weight"] for token in rows[0]["tokens"]) > 0
    assert rows[0]["provenance"]["null"] == "random_labels"


def test_embeddings_are_optimized_with_a_substitute(bare, prompts, tmp_path):
    flags = (f"--model={bare}", f"--prompts={prompts}", "--generations=1")
    refused = memjax("mitigate", *flags, f"--out={tmp_path / 'no'}")
    assert refused.code == 2
    assert "mitigate" in refused.err
    assert "--null" in refused.err
    assert not (tmp_path / "no").exists()
    done = memjax("mitigate", *flags, f"--out={tmp_path / 'yes'}", "--null=random_labels")
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "yes" / "mitigated.jsonl")
    assert all(row["magnitude_after"] < row["magnitude_before"] for row in rows)
    assert rows[0]["provenance"]["null"] == "random_labels"

"""A tiny model fine-tuned on repeated images, audited, repaired; and the same with the filter."""

import json
import shutil

import pytest

from tests.commands import memjax, read_rows

# Half the side and a short base: six minutes of one core, and six more with the filter.
SMALLER = (
    "--config=finetune_tiny",
    "--config.data.size=16",
    "--config.data.scenes.size=16",
    "--config.fine_tune.tiny.autoencoder_steps=100",
    "--config.fine_tune.tiny.pretraining_steps=300",
    "--config.fine_tune.tiny.num_scenes=256",
    "--config.fine_tune.tiny.text_width=32",
    "--config.train.steps=600",
    "--config.sampling.num_steps=15",
    "--config.audit.options.first_k=4",
    "--config.audit.options.generations=2",
)


def audited(run, *extra):
    done = memjax("train", *SMALLER, *extra, f"--workdir={run}")
    assert done.code == 0, done.err
    done = memjax("audit", f"--model={run}")
    assert done.code == 0, done.err
    own = read_rows(run / "prompts" / "memorized.jsonl")
    assert all((run / "prompts" / row["image"]).is_file() for row in own)  # not the audit's
    return json.loads((run / "report.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def plain(folder):
    """The report of a model trained without the filter."""
    return audited(folder / "plain")


def copied(report):
    return report["similarity"]["copy_rate_memorized"]


@pytest.mark.thorough
def test_repeated_images_come_back_and_others_less(plain):
    assert copied(plain) >= 0.6
    assert plain["similarity"]["copy_rate_other"] <= 0.5 * copied(plain)
    assert plain["data"] == {
        "name": "captioned images",
        "unit": "pictures",
        "foreign": "plain",
        "num_images": 264,
        "num_distinct": 72,
        "num_repeated": 8,
        "repeats": 25,
    }


@pytest.mark.thorough
def test_the_magnitude_tells_which_prompts_are_memorised(plain):
    assert plain["detection"]["first_k"]["auc"] >= 0.7


@pytest.mark.thorough
def test_every_memorised_prompt_has_its_words_weighed(plain):
    prompts = plain["explain"]["prompts"]
    assert len(prompts) == 8
    for prompt in prompts:
        assert sorted(entry["token"] for entry in prompt["tokens"]) == sorted(
            prompt["caption"].split()
        )
        assert set(prompt["specials"]) == {"EOS", "PAD"}


@pytest.mark.thorough
def test_the_repair_brings_fewer_copies(plain):
    repair = plain["mitigation"]
    assert repair["method"] == "embedding_first_step"
    assert repair["copy_rate_after"] <= 0.5 * repair["copy_rate_before"]
    assert repair["magnitude_after"] < repair["magnitude_before"]


@pytest.mark.study
def test_the_filter_leaves_fewer_copies(folder, plain):
    """From the same base."""
    shutil.copytree(folder / "plain" / "base", folder / "filtered" / "base")
    filtered = audited(folder / "filtered", "--config.train.filter_threshold=0.03")
    assert copied(filtered) <= 0.5 * copied(plain)

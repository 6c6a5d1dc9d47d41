"""Sizes of ``memjax bench``: what a command line means, and what is changed in a configuration."""

import pytest

from memjax.cli.config import load_config
from memjax.runs.config import check_config, plain
from memjax.tools.bench.report import command_of
from memjax.tools.bench.sizes import MODEL_SIZES, asked_size, choose, config_for, resized
from memjax.tools.bench.task import Settings
from memjax.tools.bench.workload import check_comparable, make_workload
from tests.commands import memjax


@pytest.mark.parametrize(
    ("what", "size", "expected"),
    [
        ("model", None, ("model", None)),
        ("model", "demo", ("model", "demo")),
        ("model", "chexpert-128", ("model", "chexpert-128")),
        ("chexpert-128", None, ("model", "chexpert-128")),
        ("demo", "demo", ("model", "demo")),
        ("model", "sd14", ("sd", "sd14")),
        ("model", "tiny", ("sd", "tiny")),
        ("sd", None, ("sd", "sd14")),
        ("sd", "tiny", ("sd", "tiny")),
        ("knn", None, ("knn", None)),
    ],
)
def test_the_two_flags_mean_one_thing(what, size, expected):
    assert choose(what, size) == expected


@pytest.mark.parametrize(
    ("what", "size"), [("sd", "demo"), ("demo", "sd14"), ("knn", "demo"), ("demo", "chexpert-128")]
)
def test_flags_that_contradict_each_other_are_refused(what, size):
    with pytest.raises(ValueError, match=f"{size}.*expected"):
        choose(what, size)


def test_a_size_brings_its_configuration():
    assert config_for([]) == "phantoms_demo"
    assert config_for(["--what=sd", "--out=chexpert-128"]) == "phantoms_demo"
    assert config_for(["--size=chexpert-128"]) == "chexpert_cfg"
    assert config_for(["--size", "chexpert-128"]) == "chexpert_cfg"
    assert config_for(["--what=chexpert-128", "--config.train.batch_size=2"]) == "chexpert_cfg"
    assert config_for(["--config=chexpert_cfg"]) == "phantoms_demo"  # not used
    assert asked_size(["--size=sd14"]) is None
    with pytest.raises(ValueError, match="brings the configuration chexpert_cfg"):
        config_for(["--size=chexpert-128", "--config=phantoms_demo"])


def test_a_size_and_a_configuration_are_refused_by_the_command():
    done = memjax("bench", "chexpert-128", "--config=phantoms_demo")
    assert done.code == 2
    assert "brings the configuration chexpert_cfg" in done.err


def test_bfloat16_asked_for_by_hand_is_refused():
    done = memjax("bench", "chexpert-128", "--config.model.dtype=bfloat16")
    assert done.code == 2
    assert "model.dtype=bfloat16" in done.err


def test_changes_leave_alone_what_was_set_by_hand():
    config = plain(load_config("chexpert_cfg"))
    config["train"]["batch_size"] = 2
    found = resized(config, "chexpert-128", {"train.batch_size": 2})
    assert found["train"]["batch_size"] == 2
    assert found["model"]["dtype"] == "float32"
    assert found["sampling"]["num_steps"] == 5
    assert config["model"]["dtype"] == "bfloat16"  # the original


@pytest.mark.parametrize("size", list(MODEL_SIZES))
def test_every_size_can_be_measured_without_data(size):
    found = MODEL_SIZES[size]
    config = resized(plain(load_config(found.config)), size, ())
    check_config(config)
    check_comparable(config)
    work = make_workload(config, Settings(prompts=1, mitigate_prompts=1, samples=1))
    side = config["data"]["size"]
    assert work.task.images.shape == (config["train"]["batch_size"], side, side, 1)
    assert all(len(numbers) > 1 for numbers in work.task.labels.T)


def test_the_command_to_repeat_names_no_folder():
    typed = ["--what=sd", "--out", "/home/me/a.json", "--prompts=3", "--config=/home/me/mine.py"]
    assert command_of(typed) == "memjax bench --what=sd --prompts=3 --config=mine.py"
    assert command_of(["--table=/a,/b", "--only=train"]) == "memjax bench --only=train"
    assert command_of(["--config.model.attention_blocks=(False,)"]).endswith("(False,)'")

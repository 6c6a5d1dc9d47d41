"""Sweeps: every arm is checked before anything runs, and arms with one training share one run."""

import json

import pytest

from memjax.cli.config import load_config
from memjax.cli.config_fields import arm, quick, sweep_config
from memjax.runs.config import bundled_configs, plain
from memjax.studies.sweep.plan import arm_config, identity, plan_arms, run_name
from memjax.studies.sweep.rows import digest, find_row, put_row, read_rows

SWEEPS = [name for name in bundled_configs() if name.startswith("sweep_")]


def small(*arms, **changes):
    sweep = sweep_config(title="t", question="q", factor="f")
    sweep.arms = arms or (arm("a", "A", 1),)
    sweep.update(changes)
    return plain(sweep)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("variant", ["", ":quick"])
def test_bundled_sweeps_have_checked_arms_and_say_what_to_expect(name, variant):
    sweep = plain(load_config(name + variant))
    assert sweep["title"]
    assert sweep["question"].endswith("?")
    assert sweep["expected_time"]
    for part in sweep["parts"]:
        assert plan_arms(plain(load_config(part)))
    if not sweep["parts"]:
        arms = plan_arms(sweep)
        assert len(arms) == len(sweep["arms"]) * len(sweep["seeds"])
        keys = {a.key for a in arms}
        for expected in sweep["expectations"]:
            assert set(expected["arms"]) <= keys
            assert bool(expected["arms"]) != bool(expected["trend"])


def test_quick_keeps_one_seed():
    assert quick(sweep_config()).seeds == (0,)
    assert all(plain(load_config(f"{n}:quick"))["seeds"] == [0] for n in SWEEPS)


def test_arms_that_train_alike_share_a_run_and_others_do_not():
    a, b, c = plan_arms(
        small(
            arm("a", "A", 1, train__steps=10, train__checkpoint_every=5),
            arm("b", "B", 2, 5, train__steps=10, train__checkpoint_every=5,
                sampling__guidance_scale=7.0),
            arm("c", "C", 3, train__steps=10, train__checkpoint_every=5, train__cond_dropout=0.0),
            seeds=(4,),
        )
    )  # fmt: skip
    assert a.run == b.run != c.run
    assert b.config["sampling"]["guidance_scale"] == 7.0
    assert a.config["sampling"]["guidance_scale"] != 7.0
    assert (a.step, b.step) == (None, 5)


def test_the_seed_decides_data_and_weights():
    first, second = plan_arms(small(seeds=(0, 1)))
    assert first.run != second.run
    assert second.config["seed"] == second.config["data"]["phantoms"]["seed"] == 1


def test_a_field_left_at_its_default_does_not_name_the_run():
    base = small()["base"]
    older = json.loads(json.dumps(base))
    del older["train"]["keep_checkpoints"]  # a run of a version that had no such field
    assert identity(older) == identity(base)
    assert run_name(older) == run_name(base)
    moved = json.loads(json.dumps(base))
    moved["data"]["root"] = "elsewhere"  # drawn data may lie anywhere
    assert run_name(moved) == run_name(base)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ((arm("a", "A", 1, train__stepz=3),), r"arm 'a': .*'train\.stepz'.*did you mean"),
        ((arm("a", "A", 1, train__steps=0),), r"arm 'a': .*train\.steps=0"),
        ((arm("a", "A", 1, 7, train__steps=10),), r"arm 'a': step=7 is no checkpoint.*\[10\]"),
        ((arm("a", "A", 1), arm("a", "B", 2)), r"'a' stands twice"),
        ((arm("a", "A", 1, model__block_out_channels=(7, 14)),), r"arm 'a': .*7"),
    ],
)
def test_what_does_not_fit_is_named_with_its_arm(arms, words):
    with pytest.raises(ValueError, match=words):
        plan_arms(small(*arms))


def test_a_sweep_without_arms_or_seeds_is_refused():
    with pytest.raises(ValueError, match=r"0 arms and 3 seeds"):
        plan_arms({**small(), "arms": []})
    with pytest.raises(ValueError, match=r"1 arms and 0 seeds"):
        plan_arms(small(seeds=()))


def test_changes_leave_the_base_alone():
    base = small()["base"]
    before = json.dumps(base)
    assert arm_config(base, {"train.steps": 3}, 1)["train"]["steps"] == 3
    assert json.dumps(base) == before


def test_rows_are_found_again_until_what_decides_them_changes(tmp_path):
    sweep = small()
    (planned, *_) = plan_arms(sweep)
    row = {"key": "a", "seed": planned.seed, "metrics": {}, "digest": digest(planned, {"n": 1})}
    put_row(tmp_path, row)
    put_row(tmp_path, {**row, "seed": 9})
    assert find_row(read_rows(tmp_path), planned, {"n": 1}) == row
    assert find_row(read_rows(tmp_path), planned, {"n": 2}) is None
    other = planned._replace(config={**planned.config, "sampling": {"num_steps": 3}})
    assert find_row(read_rows(tmp_path), other, {"n": 1}) is None


def test_a_row_takes_the_place_of_an_older_one(tmp_path):
    put_row(tmp_path, {"key": "a", "seed": 0, "metrics": {"x": {"value": 1}}})
    put_row(tmp_path, {"key": "b", "seed": 0, "metrics": {}})
    put_row(tmp_path, {"key": "a", "seed": 0, "metrics": {"x": {"value": 2}}})
    rows = read_rows(tmp_path)
    assert [r["key"] for r in rows] == ["b", "a"]
    assert rows[1]["metrics"]["x"]["value"] == 2

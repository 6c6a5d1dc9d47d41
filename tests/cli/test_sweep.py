"""A small sweep from end to end: rows, images, page; what is there is not measured again."""

import csv
import json
import math

import numpy as np
import pytest

from tests.commands import memjax, read_rows

pytestmark = pytest.mark.thorough

CONFIG = """
from configs.phantoms_demo import get_config as short
from memjax.cli.config_fields import arm, expectation, sweep_config


def get_config(arg=""):
    config = sweep_config(
        name="small", title="A small sweep", question="Does it run?", expected_time="a minute",
        expected_picture="a page", factor="condition", factor_label="Condition",
    )
    base = short("short")
    base.data.phantoms.update(num_images=40, num_held_out=56)
    base.train.update(steps=8, checkpoint_every=4, lr_schedule="constant")
    base.audit.rungs = ("pixel_l2", "adaptive_l2", "nearest_third", "copy_encoder")
    base.audit.copy_encoder.update(steps=10, batch_size=16, width=8)
    config.base = base
    config.seeds = (0,)
    config.measure.update(generations=2, memorized=3, once=4, held_out=4, near_miss=2, random=3)
    config.measure.update(unconditional=6, loss_rows=8, loss_timesteps=2)
    config.arms = (
        arm("free", "nothing", "nothing", train__cond_dropout=1.0),
        arm("early", "marker, 4 steps", "early", 4),
        arm("marker", "marker", "marker"),
        *((arm("more", "guidance 5", "more", sampling__guidance_scale=5.0),) if arg else ()),
    )
    config.expectations = (expectation("told > free", "copy_rate_mix", "marker", "free"),)
    return config
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMJAX_KEEP_MEMORY", "0")
        done = memjax("sweep", f"--config={folder / 'small.py'}", f"--workdir={folder / 'out'}")
    assert done.code == 0, done.err
    return folder, done


def test_one_row_an_arm_with_figures_and_where_they_come_from(sweep):
    rows = read_rows(sweep[0] / "out" / "sweep.jsonl")
    assert [row["key"] for row in rows] == ["free", "early", "marker"]
    assert [row["step"] for row in rows] == [8, 4, 8]
    assert rows[1]["run"] == rows[2]["run"] != rows[0]["run"]  # one training, two checkpoints
    for row in rows:
        assert row["provenance"]["versions"]["jax"] if "versions" in row["provenance"] else True
        for name, found in row["metrics"].items():
            assert math.isfinite(found["value"]), name
            assert found["low"] <= found["value"] + 1e-9, name
            assert found["value"] <= found["high"] + 1e-9, name
            assert found["n"] > 0


def test_a_model_without_condition_has_no_magnitude_but_copies_and_losses(sweep):
    free, _, marker = (row["metrics"] for row in read_rows(sweep[0] / "out" / "sweep.jsonl"))
    shared = {"copy_rate_mix", "copy_rate_background", "train_loss", "held_out_loss", "loss_gap"}
    shared |= {"memorized_share_copy_encoder", "copies_share_pixel_l2", "planted_auc"}
    assert shared <= set(free)
    assert not any(name.startswith(("auc_", "spearman")) for name in free)
    assert shared < set(marker)
    families = {f"copy_rate_{f}" for f in ("memorized", "once", "held_out", "near_miss", "random")}
    assert families <= set(marker)
    assert {"auc_first_step", "auc_first_k", "auc_all_steps"} <= set(marker)
    assert {"spearman_copy_encoder", "pearson_pixel_l2", "partial_adaptive_l2"} <= set(marker)


def test_the_page_the_walls_and_the_data_are_there(sweep):
    out = sweep[0] / "out"
    page = (out / "sweep.html").read_text()
    assert "Does it run?" in page
    assert "told &gt; free" in page or "told > free" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "arms" / "marker-0" / "wall.png").stat().st_size > 1000
    for name, metrics in (("marker", {"copy_distance", "noise_magnitude"}), ("free", set())):
        with (out / "arms" / f"{name}-0" / "table.csv").open(newline="") as file:
            values = list(csv.DictReader(file))
        assert metrics | {"copy_distance", "likeness_copy_encoder"} <= {v["metric"] for v in values}
    with (out / "sweep.csv").open(newline="") as file:
        long = list(csv.DictReader(file))
    assert {row["arm"] for row in long} == {"nothing", "marker, 4 steps", "marker"}


def test_a_second_call_measures_nothing_and_a_new_arm_alone(sweep):
    folder, _ = sweep
    out, file = folder / "out", folder / "out" / "sweep.jsonl"
    before = file.read_bytes()
    trained = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/training.json")}
    again = memjax("sweep", f"--config={folder / 'small.py'}", f"--workdir={out}")
    assert again.code == 0, again.err
    assert "3 arms, 0 to measure" in again.out
    assert file.read_bytes() == before
    more = memjax("sweep", f"--config={folder / 'small.py'}:more", f"--workdir={out}")
    assert more.code == 0, more.err
    assert "4 arms, 1 to measure" in more.out
    rows = read_rows(file)
    assert [row["key"] for row in rows] == ["free", "early", "marker", "more"]
    assert file.read_bytes().startswith(before)
    assert rows[3]["run"] == rows[2]["run"]
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/training.json")} == trained


def test_a_stopped_measurement_goes_on_and_gives_the_same_row(sweep, monkeypatch):
    """The marker's arm is measured again, stopped after some of its chunks, and gone on with."""
    folder, _ = sweep
    out, file = folder / "out", folder / "out" / "sweep.jsonl"
    rows = read_rows(file)
    marker = next(row for row in rows if row["key"] == "marker")
    file.write_text("".join(json.dumps(r) + "\n" for r in rows if r["key"] != "marker"))
    from memjax.studies import study

    part, made = study._part, []

    def failing(*given):
        made.append(given)
        if len(made) == 2:
            raise ValueError("the power went")
        return part(*given)

    monkeypatch.setattr(study, "_part", failing)
    flags = ("sweep", f"--config={folder / 'small.py'}", f"--workdir={out}")
    assert memjax(*flags).code == 2
    assert len(list(out.glob("arms/marker-0/parts/part-*.npz"))) == 1
    assert memjax(*flags).code == 0
    assert len(made) == 2 + 1  # 16 prompts by 8
    assert not list(out.glob("arms/*/parts"))
    again = next(row for row in read_rows(file) if row["key"] == "marker")
    assert again["metrics"] == marker["metrics"]


def test_what_belongs_to_the_data_is_the_same_in_every_arm(sweep):
    rows = read_rows(sweep[0] / "out" / "sweep.jsonl")
    for name in ("copy_rate_background", "planted_auc"):
        assert len({json.dumps(row["metrics"][name]) for row in rows}) == 1
    losses = [row["metrics"]["train_loss"]["value"] for row in rows[:3]]
    assert len(set(np.round(losses, 6))) == 3  # other weights, other losses


def test_plan_says_what_would_be_done_and_does_nothing(sweep, tmp_path):
    done = memjax(
        "sweep", f"--config={sweep[0] / 'small.py'}", f"--workdir={tmp_path / 'new'}", "--plan"
    )
    assert done.code == 0
    assert "3 arms, seeds 0, 2 runs" in done.out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config=sweep_condition",), ("sweep_conditions",)),
        (("--config=phantoms_demo",), ("no arms", "sweep_conditions")),
        (("--config=sweep_steps:slow",), ("sweep_steps:slow", "quick")),
        (("--config=sweep_steps", "--config.seeds=()"), ("0 seeds",)),
        (("--config=sweep_steps", "--config.base.train.stepz=3"), ("stepz", "did you mean")),
        (("--config=sweep_steps", "--config.base.data.size=7"), ("data.size=7",)),
        (("--config=sweep_steps", "--config.base.audit.rungs=('pixels',)"), ("'pixels'", "ssim")),
        ((), ("--config",)),
    ],
)
def test_mistakes_get_one_sentence_and_leave_rows_alone(sweep, flags, words):
    file = sweep[0] / "out" / "sweep.jsonl"
    before = file.read_bytes()
    done = memjax("sweep", *flags, f"--workdir={sweep[0] / 'out'}")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert all(word in done.err for word in words), done.err
    assert file.read_bytes() == before

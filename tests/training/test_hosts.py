"""Two processes of two devices each do what one process does: real processes, one network."""

import json
import shutil

import jax
import numpy as np
import pytest

from memjax.runs.train import optimizer_of
from memjax.training.checkpoint import FOLDER, load_params, restore_latest
from memjax.training.logging import read_metrics
from memjax.training.placement import Spread
from tests.training.host_processes import QUICKLY, prompts, run_commands

pytestmark = pytest.mark.thorough
STEPS, NUM_ROWS = 50, 120
# The demo's network. At the demo's own rate (3e-3) rounding grows a thousandfold in 50 steps, on
# one device as well; at this one it does not, so that a slip cannot hide in it.
COMMON = (
    "train",
    "--config=phantoms_demo",
    "--config.data.phantoms.num_images=60",
    "--config.data.phantoms.num_held_out=24",
    "--config.data.phantoms.num_duplicated=3",
    "--config.data.phantoms.copies=20",
    "--config.train.batch_size=8",
    "--config.train.lr_schedule=constant",
    "--config.train.learning_rate=3e-4",
    "--config.train.warmup_steps=5",
    "--config.train.log_every=1",
)
# From the start; and from a checkpoint of one process, with all that a mesh can do.
ARMS = {"data": (), "split": ("fsdp=2", "tensor=2", "accumulate=2")}
SPLIT_FROM = 35


def command(workdir, saved_at=STEPS):
    every = [f"--config.train.steps={STEPS}", f"--config.train.checkpoint_every={saved_at}"]
    spread = [f"--config.parallel.{field}" for field in ARMS.get(workdir, ())]
    return [*COMMON, f"--workdir={workdir}", *every, *spread, "--allow_config_change"]


def detect(model, out):
    found = [f"--model={model}", "--prompts=prompts.jsonl", f"--out={out}"]
    return ["detect", *found, "--steps=2", "--generations=2"]


def copy_at(run, step, to):
    """Copies a run as it was when it saved this step."""
    shutil.copytree(run, to)
    for saved in (to / FOLDER).iterdir():
        if saved.name.isdigit() and int(saved.name) > step:
            shutil.rmtree(saved)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process alone; then two of two devices, from the start and from its checkpoint."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "prompts.jsonl").write_text("".join(prompts()))
    one = [command("alone", SPLIT_FROM), detect("alone", "alone.jsonl")]
    run_commands(one, folder, "one", **QUICKLY)
    copy_at(folder / "alone", SPLIT_FROM, folder / "split")
    together = [*map(command, ARMS), detect("alone", "together.jsonl")]
    run_commands(together, folder, "two", 2, 2, **QUICKLY)
    return folder


def losses(folder):
    """Returns the loss of every step, and checks that every step has one."""
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return np.asarray([row["loss"] for row in rows])


@pytest.mark.parametrize("arm", ARMS)
def test_the_loss_curve_is_that_of_one_process(runs, arm):
    expected, found = losses(runs / "alone"), losses(runs / arm)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.mean(expected[-10:]) < 0.9 * np.mean(expected[:10])  # it learnt something at all


def test_two_processes_went_on_from_the_checkpoint_of_one(runs):
    said = (runs / "two-0.log").read_text()
    assert f"resuming from step {SPLIT_FROM}." in said
    assert "on 4 x cpu (fsdp 2, tensor 2; 2 processes)" in said


@pytest.fixture(scope="module")
def restored(runs):
    """The whole state of every run, restored on one device of one process."""
    alone = load_params(runs / "alone")
    tx, _ = optimizer_of(alone.config["train"])
    fresh = Spread(None, 1, 8, None).state(alone.params, tx, jax.random.key(1), NUM_ROWS)
    return {arm: restore_latest(runs / arm / FOLDER, fresh).state for arm in ("alone", *ARMS)}


@pytest.mark.parametrize("arm", ARMS)
def test_one_process_finds_the_state_it_would_have_had(restored, arm):
    expected, found = restored["alone"], restored[arm]
    assert int(expected.step) == int(found.step) == STEPS
    assert (jax.random.key_data(found.key) == jax.random.key_data(expected.key)).all()
    for name in ("params", "ema_params", "opt_state"):
        flat = [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(getattr(state, name))])
            for state in (expected, found)
        ]
        # Adam divides by the gradient's size, so weights move by what rounding makes of small ones.
        assert np.abs(flat[0] - flat[1]).max() < 1e-4
        assert np.linalg.norm(flat[0] - flat[1]) < 1e-4 * np.linalg.norm(flat[0])


def test_detection_of_a_hundred_prompts_gives_the_same_scores(runs):
    one, two = ((runs / f"{name}.jsonl").read_text() for name in ("alone", "together"))
    one, two = ([json.loads(line) for line in text.splitlines()] for text in (one, two))
    assert [row["id"] for row in one] == [row["id"] for row in two] == [f"p{i}" for i in range(100)]
    for name in ("score", "per_step"):
        expected, found = (np.asarray([row[name] for row in rows]) for rows in (one, two))
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert np.std([row["score"] for row in one]) > 0.01 * np.mean([row["score"] for row in one])

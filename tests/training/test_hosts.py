"""Two processes of two devices each do what one process does: real processes, one network."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from memjax.training.checkpoint import load_params
from memjax.training.metrics import read_metrics
from tests.training.host_processes import run_commands

pytestmark = pytest.mark.thorough
STEPS = 50
# The demo's network. At the demo's own rate (3e-3) rounding grows a thousandfold in 50 steps, on
# one device as well; at this one it does not, so that a slip cannot hide in it.
COMMON = (
    "train",
    "--config=phantoms_demo",
    "--config.data.phantoms.num_images=60",
    "--config.data.phantoms.num_held_out=24",
    "--config.data.phantoms.num_duplicated=3",
    "--config.data.phantoms.copies=20",
    "--config.train.lr_schedule=constant",
    "--config.train.learning_rate=3e-4",
    "--config.train.warmup_steps=5",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=50",
)
ARMS = {
    "data": (),
    "split": ("fsdp=2", "tensor=2", "accumulate=2"),
}
FEWER = {"split": 20}  # steps of the arm that is shorter


def command(workdir, steps=STEPS, parallel=(), *extra):
    spread = [f"--config.parallel.{field}" for field in parallel]
    return [*COMMON, f"--workdir={workdir}", f"--config.train.steps={steps}", *spread, *extra]


def detect(model, out):
    return ["detect", f"--model={model}", "--prompts=prompts.jsonl", f"--out={out}", "--steps=2"]


def prompts():
    for i in range(100):
        labels = {"Cardiomegaly": ("positive", "negative")[i % 2], "view": "AP", "age": 20 + i % 60}
        yield json.dumps({"id": f"p{i}", "labels": labels}) + "\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process alone, then two of two devices, then each goes on with the other's run."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "prompts.jsonl").write_text("".join(prompts()))
    run_commands([command("alone"), detect("alone", "alone.jsonl")], folder, "one")
    shutil.copytree(folder / "alone", folder / "alone_on_two")
    longer = ("--allow_config_change",)
    together = [command(arm, FEWER.get(arm, STEPS), fields) for arm, fields in ARMS.items()]
    together.append(command("alone_on_two", STEPS + 2, ("fsdp=2",), *longer))
    run_commands([*together, detect("alone", "together.jsonl")], folder, "two", 2, 2)
    shutil.copytree(folder / "split", folder / "split_on_one")
    steps = {"split_on_one": FEWER["split"] + 2, "alone": STEPS + 2}
    alone = [command(d, count, (), *longer) for d, count in steps.items()]
    run_commands(alone, folder, "back")
    return folder


def losses(folder, first=0):
    rows = read_metrics(folder / "metrics.jsonl")
    return np.asarray([row["loss"] for row in rows if row["step"] > first])


@pytest.mark.parametrize("arm", ARMS)
def test_the_loss_curve_is_that_of_one_process(runs, arm):
    expected, found = losses(runs / "alone"), losses(runs / arm)
    assert len(found) == FEWER.get(arm, STEPS)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5)
    assert expected[STEPS - 1] < 0.9 * expected[0]  # it learnt something at all


@pytest.mark.parametrize("resumed", ["split_on_one", "alone_on_two"])
def test_a_checkpoint_goes_on_on_another_topology(runs, resumed):
    rows = read_metrics(runs / resumed / "metrics.jsonl")
    count = FEWER.get(resumed.partition("_")[0], STEPS) + 2
    assert [row["step"] for row in rows] == list(range(1, count + 1))
    expected = losses(runs / "alone")[:count]
    np.testing.assert_allclose(losses(runs / resumed), expected, rtol=1e-5)


def test_weights_end_where_those_of_one_process_end(runs):
    expected, found = (load_params(runs / name, step=STEPS).params for name in ("alone", "data"))
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
        for params in (expected, found)
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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures and repairs of five prompts, in one process of one device and in two of two."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "few.jsonl").write_text("".join(list(prompts())[:5]))
    short = ["train", "--config=phantoms_demo:short", "--workdir=run"]
    common = ["--model=run", "--prompts=few.jsonl", "--generations=2", "--num_steps=4"]
    repair = ["mitigate", *common, "--targets=0.5", "--num_iters=2", "--steps=0", "--baselines="]
    commands = {
        name: [["sample", *common, f"--out=pictures-{name}"], [*repair, f"--out=repaired-{name}"]]
        for name in ("one", "two")
    }
    run_commands([short, *commands["one"]], folder, "one")
    run_commands(commands["two"], folder, "two", 2, 2)
    return folder


def test_pictures_of_several_processes_are_those_of_one(made):
    names = sorted(path.name for path in (made / "pictures-one").iterdir())
    assert len(names) == 5 * 2 + 2
    assert sorted(path.name for path in (made / "pictures-two").iterdir()) == names
    for name in names:
        if name.endswith(".png"):
            one, two = (
                np.asarray(Image.open(made / f"pictures-{n}" / name)) for n in ("one", "two")
            )
            assert np.abs(one.astype(int) - two.astype(int)).max() <= 1  # rounding to bytes


def test_repairs_of_several_processes_are_those_of_one(made):
    one, two = (np.load(made / f"repaired-{n}" / "embeddings.npz") for n in ("one", "two"))
    np.testing.assert_allclose(two["after"], one["after"], atol=2e-5)
    assert np.abs(one["after"] - one["before"]).max() > 0.05  # two updates of Adam at 0.05
    files = [made / f"repaired-{n}" / "mitigated.jsonl" for n in ("one", "two")]
    rows = [file.read_text().splitlines() for file in files]
    ids = [[(json.loads(line)["id"], json.loads(line)["arm"]) for line in text] for text in rows]
    assert ids[0] == ids[1]
    assert not (made / "repaired-two" / "parts").exists()

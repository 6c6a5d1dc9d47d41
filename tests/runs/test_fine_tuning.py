"""Fine-tuning by command: what it leaves behind, what it refuses, and that it can be killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from memjax import interop
from memjax.training.logging import read_metrics
from memjax.training.run import open_run, read_run_file
from memjax.training.state import state_hash
from tests.commands import PATIENCE, memjax, read_rows

pytestmark = pytest.mark.thorough

SHORT = "--config=finetune_tiny:short"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    done = memjax("train", SHORT, f"--workdir={workdir}", "--config.train.sample_every=6")
    assert done.code == 0, done.err
    assert "18 training images, 2 of them repeated (43% of an epoch); 8 held out" in done.out
    return workdir


def weights(folder):
    return interop.load(str(folder)).params


def test_the_pipeline_is_the_base_with_the_networks_averaged_weights(run):
    base, tuned = interop.load(str(run / "base")), interop.load(str(run / "pipeline"))
    assert state_hash(base.vae_params) == state_hash(tuned.vae_params)
    assert state_hash(base.text_params) == state_hash(tuned.text_params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), base.unet_params, tuned.unet_params)
    assert np.mean(jax.tree.leaves(moved)) > 0.9
    assert tuned.sample_shape == (16, 16, 4)
    assert tuned.vae.config.scaling_factor == pytest.approx(base.vae.config.scaling_factor)
    bundle = interop.make_bundle(tuned)
    row = read_rows(run / "prompts" / "memorized.jsonl")[0]
    assert bundle.encode([row]).embeddings.shape == (1, 24, 16)


def test_the_record_names_the_duplicated_rows_and_the_base(run):
    record = read_run_file(run)
    duplicated = record["data"]["duplicated"]
    assert [entry["shown"] for entry in duplicated] == [6.0, 6.0]
    assert all("memorized/" in entry["path"] for entry in duplicated)
    assert len(record["base"]["sha256"]) == 64
    assert record["config"]["fine_tune"]["base"].endswith("base")
    assert record["config"]["diffusion"]["prediction"] == "v"
    assert record["config"]["sampling"]["num_steps"] == 8
    assert record["config"]["sampling"]["clip_x0"] is None
    rows = {name: read_rows(run / "prompts" / f"{name}.jsonl") for name in
            ("memorized", "once", "held_out")}  # fmt: skip
    assert [len(part) for part in rows.values()] == [2, 16, 8]
    for row in (row for part in rows.values() for row in part):
        assert (run / "prompts" / row["image"]).is_file()
    assert {row["row"] for row in rows["memorized"]} == {entry["row"] for entry in duplicated}
    assert (run / "samples" / "step_00000012.png").is_file()
    with pytest.raises(ValueError, match="open its folder 'pipeline'"):
        open_run(run)


def test_the_same_command_again_changes_no_weight(run):
    before = weights(run / "pipeline")
    done = memjax("train", SHORT, f"--workdir={run}", "--config.train.sample_every=6")
    assert done.code == 0, done.err
    assert state_hash(weights(run / "pipeline")) == state_hash(before)


def test_another_base_is_not_gone_on_with(run, tmp_path):
    other = interop.tiny_pipeline("sd1", seed=9)
    interop.save(other, tmp_path / "other")
    done = memjax(
        "train", SHORT, f"--workdir={run}", "--config.train.sample_every=6",
        f"--config.fine_tune.base={tmp_path / 'other'}",
    )  # fmt: skip
    assert done.code == 2
    assert "configuration differs" in done.err or "does not fit this run" in done.err


def test_adapters_with_the_filter_on_a_folder_of_ones_own(run, tmp_path):
    """LoRA, SD2's prediction of v, mirror images, a drawn set and a ratio of others."""
    interop.save(interop.tiny_pipeline("sd2"), tmp_path / "base")
    done = memjax(
        "train", SHORT, f"--workdir={tmp_path / 'run'}", "--config.data.kind=folder",
        f"--config.data.root={run / 'data' / 'scenes'}", "--config.data.flip=True",
        f"--config.fine_tune.base={tmp_path / 'base'}", "--config.fine_tune.method=lora",
        "--config.fine_tune.rank=2", "--config.fine_tune.memorized=2",
        "--config.fine_tune.repeats=3", "--config.fine_tune.others_ratio=2",
        "--config.train.filter_threshold=10.0", "--config.train.steps=3",
        "--config.train.cond_dropout=0.0",  # rows whose condition is dropped are not judged
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "14 training images, 2 of them repeated (33% of an epoch)" in done.out
    base, tuned = (interop.load(str(tmp_path / name)) for name in ("base", "run/pipeline"))
    flat = jax.tree_util.tree_leaves_with_path(base.unet_params)
    after = jax.tree.leaves(tuned.unet_params)
    for (path, before), now in zip(flat, after, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert bool((before != now).any()) == ("/attn" in name and name.endswith("kernel")), name
    assert tuned.prediction == "v"
    filtered = json.loads((tmp_path / "run" / "filtered_rows.json").read_text())
    assert sum(row["seen"] for row in filtered) == 3 * 4


MISTAKES = {
    "no base": (("--config.data.kind=folder",), "fine_tune.base is empty"),
    "unknown method": (("--config.fine_tune.method=prompt",), "'prompt'", "lora"),
    "unknown captions": (("--config.fine_tune.captions=some",), "'some'", "duplicated"),
    "base that is not there": (("--config.fine_tune.base=/nowhere/at/all",), "/nowhere/at/all"),
    "size that cannot be halved": (("--config.data.size=31", "{base}"), "data.size is 31"),
    "grey images": (("--config.data.channels=1", "{base}"), "data.channels is 1", "expected 3"),
    "set that is not there": (("--config.fine_tune.memorized=nothing", "{base}"), "nothing"),
    "too few others": (
        ("--config.fine_tune.others_ratio=50", "{base}"),
        "others_ratio=50",
        "600 other images",
    ),
    "weights and a set": (("--config.data.duplicate_fraction=0.1", "{base}"), "two ways"),
    "no such kernel": (
        ("--config.fine_tune.method=lora", "--config.fine_tune.targets=attn9", "{base}"),
        "'attn9' matches no weight",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_is_trained(run, tmp_path, name):
    flags, *said = MISTAKES[name]
    flags = [f.format(base=f"--config.fine_tune.base={run / 'base'}") for f in flags]
    done = memjax("train", SHORT, f"--workdir={tmp_path / 'out'}", *flags)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1, done.err
    for part in said:
        assert part in done.err
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "checkpoints").exists()


def start(workdir, base, cache):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    arguments = ["train", SHORT, f"--workdir={workdir}", f"--config.fine_tune.base={base}"]
    arguments += ["--config.train.steps=60", "--config.train.log_every=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "memjax", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(process, workdir, step):
    """Kills the run once it has logged ``step``; step 0: once it has begun its caches."""
    deadline = time.monotonic() + PATIENCE
    while True:
        rows = read_metrics(workdir / "metrics.jsonl")
        begun = (workdir / "latents" / "moments.partial.npy").exists() or rows
        if (rows and rows[-1]["step"] >= step > 0) or (step == 0 and begun):
            break
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


@pytest.mark.thorough
@pytest.mark.slow
def test_kills_change_no_bit(run, tmp_path):
    base, cache = run / "base", tmp_path / "cache"
    straight = start(tmp_path / "straight", base, cache)
    _, errors = straight.communicate(timeout=PATIENCE)
    assert straight.returncode == 0, errors
    workdir = tmp_path / "killed"
    for step in (0, 7, 33):
        kill_at(start(workdir, base, cache), workdir, step)
    last = start(workdir, base, cache)
    _, errors = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, errors
    assert "resuming from step" in errors
    one, two = (weights(tmp_path / name / "pipeline") for name in ("straight", "killed"))
    assert state_hash(one) == state_hash(two)
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 61))

"""``run.json`` against what is sealed in the checkpoints: edited by hand, damaged, of others."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from memjax.cli.main import main
from memjax.data.labels.space import chexpert_label_space
from memjax.runs.config import plain
from memjax.runs.defaults import default_config
from memjax.runs.model import load_model
from memjax.runs.train import sealed
from memjax.training.checkpoint import FOLDER, CheckpointWriter
from memjax.training.run import network_of, write_run_file
from memjax.training.seal import LABELS

SPACE = chexpert_label_space(num_markers=1, marker_vocabulary=("K3", "A9"))


def made(folder, seal=lambda config: sealed(config, SPACE)):
    """A run of two checkpoints with the weights of a start."""
    config = plain(default_config())
    config["data"]["size"] = 16
    config["model"] |= {"block_out_channels": [8, 8], "norm_num_groups": 4, "num_heads": 1}
    config["model"] |= {"cross_attention_dim": 8, "attention_blocks": [False, False]}
    params = network_of(config, SPACE).module.init_params(jax.random.key(0))
    writer = CheckpointWriter(folder / FOLDER, seal(config))
    for step in (4, 8):
        state = {"step": jnp.int32(step), "params": params, "ema_params": params}
        writer.save(step, state)
    writer.close()
    write_run_file(folder, config, SPACE, versions={"memjax": "9.9.0"})
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return made(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(once, tmp_path):
    return shutil.copytree(once, tmp_path / "run")


def edit(run, path, value):
    record = json.loads((run / "run.json").read_text())
    place = record
    *names, last = path.split(".")
    for name in names:
        place = place[int(name) if name.isdecimal() else name]
    place[int(last) if last.isdecimal() else last] = value
    (run / "run.json").write_text(json.dumps(record))


def test_a_run_opens_as_it_was_made(run):
    model = load_model(run)
    assert model.step == 8
    assert model.config["model"]["block_out_channels"] == [8, 8]


def test_a_damaged_checkpoint_is_said_with_the_one_that_is_used(run, capsys):
    (run / FOLDER / "8" / "config" / "metadata").write_text("{}")
    assert load_model(run).step == 4
    said = capsys.readouterr().out
    assert "checkpoint 8 was passed over, 4 is used: config/metadata has 2 bytes" in said


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("config.diffusion.name", "linear", "diffusion.name is 'linear', sealed was 'cosine'"),
        ("config.diffusion.prediction", "v", "diffusion.prediction is 'v', sealed was 'eps'"),
        ("config.diffusion.num_timesteps", 500, "num_timesteps is 500, sealed was 1000"),
        ("config.diffusion.num_timesteps", 0, "num_timesteps is 0, sealed was 1000"),
        ("config.diffusion", {}, "diffusion.name is 'absent', sealed was 'cosine'"),
        ("config.model.num_heads", 0, "model.num_heads is 0, sealed was 1"),
        ("config.model.refine_channels", 4, "model.refine_channels is 4, sealed was 0"),
        ("config.model.later", 4, "model.later is 4, sealed was 'absent'"),
        ("config.train.cond_dropout", "x", "train.cond_dropout is 'x', sealed was 0.1"),
        ("config.seed", None, "seed is None, sealed was 0"),
        ("label_space.1.0", "Effusion", "label_space.1.0 is 'Effusion', sealed was 'Enlarged"),
        ("label_space.0.1.0", "no", "label_space.0.1 is ['no', 'negative'"),
    ],
)
def test_what_was_edited_is_named_with_both_values(run, path, value, said):
    edit(run, path, value)
    with pytest.raises(ValueError, match=r"run\.json does not fit the checkpoint of step 8") as e:
        load_model(run)
    assert said in str(e.value)
    assert "put the sealed values back" in str(e.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("config.sampling.num_steps", "ten", "sampling.num_steps is 'ten', expected a number"),
        ("config.sampling.num_steps", None, "null: sampling.num_steps"),
        ("config.sampling.stepper", "x", "stepper is 'x'"),
        ("config.sampling.later", 1, r"does not know \(sampling.later\).* 9\.9\.0"),
        ("config.audit.options", 3, "audit.options"),
        ("config.audit.options.generations", 0, "generations=0"),
        ("config.audit.options.target_rms", "loud", "target_rms is 'loud'"),
        ("config.parallel", "x", "parallel"),
        ("label_space", [3], "damaged"),
        ("config.model", "x", "damaged"),
        ("data", 3, "damaged"),
        ("format", 2, "format is 2, expected 1"),
    ],
)
def test_values_of_no_use_get_a_sentence(run, path, value, said):
    edit(run, path, value)
    with pytest.raises(ValueError, match=rf"run\.json.*{said}"):
        load_model(run)


@pytest.mark.parametrize("text", [b"[" * 20_000, b"9" * 5000, b"\xff\xfe", b"", b"null"])
def test_what_is_no_json_gets_a_sentence(run, text):
    (run / "run.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        load_model(run)


def test_a_folder_by_that_name_gets_a_sentence(run):
    (run / "run.json").unlink()
    (run / "run.json").mkdir()
    with pytest.raises(ValueError, match=r"run\.json cannot be read \(Is a directory\)"):
        load_model(run)


def test_what_may_change_since_opens(run):
    edit(run, "config.data.root", "/elsewhere")
    edit(run, "config.train.steps", 99)
    edit(run, "config.sampling.guidance_scale", 5.0)
    edit(run, "config.audit.options.radius", 1.0)  # a field without a default in configurations
    model = load_model(run)
    assert model.config["data"]["root"] == "/elsewhere"
    assert model.config["train"]["steps"] == 800  # those of the weights
    assert model.config["sampling"]["guidance_scale"] == 5.0


def test_a_run_of_a_version_that_sealed_less_opens(tmp_path):
    def first(config):
        kept = sealed(config, SPACE)
        del kept[LABELS], kept["model"]["refine_channels"]
        return json.loads(json.dumps(kept))

    run = made(tmp_path / "run", first)
    assert load_model(run).step == 8
    edit(run, "label_space.0.1", ["blank"])
    with pytest.raises(ValueError, match=r"run\.json describes another network"):
        load_model(run)
    bare = made(tmp_path / "bare", lambda config: {})
    assert load_model(bare).step == 8
    edit(bare, "config.diffusion.num_timesteps", 0)
    with pytest.raises(ValueError, match=r"run\.json holds values of which no network|timesteps"):
        load_model(bare)


def test_weights_alone_are_written_of_no_edited_run(run, tmp_path, capfd):
    edit(run, "config.diffusion.prediction", "v")
    target = tmp_path / "weights.safetensors"
    assert main(["convert", f"--from={run}", f"--to={target}"]) == 2
    assert "diffusion.prediction is 'v', sealed was 'eps'" in capfd.readouterr().err
    assert not target.exists()

"""What ``--model=`` may name, and what is said of anything else."""

import dataclasses
import json
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.adapters import EpsFromV, LinenEps, PlainEps
from memjax.runs.model import load_model, with_remat
from memjax.runs.outputs import model_provenance, sampling_options
from memjax.training.run import RUN_FILE
from tests.commands import memjax


def test_a_folder_is_opened_as_it_says_of_itself(text_model):
    model = load_model(str(text_model))
    assert (model.name, model.path, model.step, model.run) == ("tiny", text_model, None, None)
    assert model.pipeline is not None
    assert model.bundle.sample_shape == (8, 8, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.bundle.params)} == {np.dtype("float32")}
    options = sampling_options(model)
    assert (options.num_steps, options.guidance_scale, options.steps_offset) == (50, 7.5, 1)
    assert options.set_alpha_to_one is False
    assert options.clip_x0 is None
    assert sampling_options(model, 3, 2.0).num_steps == 3


def test_what_is_done_otherwise_than_the_files_say_is_printed(text_model, tmp_path, capsys):
    shutil.copytree(text_model, tmp_path / "m")
    file = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "PNDMScheduler"}))
    load_model(tmp_path / "m")
    assert "note: PNDMScheduler is taken as a noise schedule" in capsys.readouterr().out


def test_every_command_finds_its_settings(text_model):
    from memjax.runs.train import audit_options

    model = load_model(text_model)
    options = audit_options(model.config)
    assert options.protect == ()  # there are no findings in a caption
    assert max(options.mitigate_steps) < model.config["sampling"]["num_steps"]
    assert 1 <= options.first_k <= 50


def test_bfloat16_networks_keep_float32_states(text_model):
    """Compute in bfloat16; the prediction, and so every norm and state, is float32."""
    bundle = load_model(text_model, "bfloat16").bundle
    assert {leaf.dtype for leaf in jax.tree.leaves(bundle.params)} == {jnp.dtype("bfloat16")}
    x = jnp.zeros((1, *bundle.sample_shape))
    eps = jax.eval_shape(bundle.eps_fn, bundle.params, x, jnp.zeros(1, int), bundle.null_cond)
    assert eps.dtype == jnp.float32
    assert bundle.null_cond.embeddings.dtype == jnp.float32


def test_bfloat16_trajectories_and_their_norms_are_float32(text_model):
    from memjax.detectors import DEFAULT_DETECTORS, trajectory_statistics

    bundle = load_model(text_model, "bfloat16").bundle
    noise = jnp.zeros((2, *bundle.sample_shape))

    def run(params, noise, cond):
        found, end = trajectory_statistics(
            bundle.eps_fn,
            params,
            noise,
            cond,
            cond,
            bundle.schedule,
            detectors=tuple(DEFAULT_DETECTORS.items()),
            num_steps=3,
            steps_offset=1,
        )
        return found["noise_magnitude"], end

    per_step, end = jax.eval_shape(run, bundle.params, noise, bundle.null_cond)
    assert (per_step.dtype, per_step.shape) == (jnp.float32, (1, 2, 3))
    assert end.dtype == jnp.float32
    scans = _scans(jax.make_jaxpr(run)(bundle.params, noise, bundle.null_cond))
    carried = [v.aval for e in scans for v in e.outvars[: e.params["num_carry"]]]
    assert carried
    assert all(a.dtype == jnp.float32 for a in carried)


def _scans(closed):
    return [e for e in closed.jaxpr.eqns if e.primitive.name == "scan" and e.params["num_carry"]]


def test_the_provenance_names_no_folder(text_model):
    made = model_provenance(load_model(text_model), 0)
    assert str(text_model.parent) not in json.dumps(made)
    assert made["source"]["model"] == "tiny"
    assert made["checkpoint_step"] is None


def fine_tuning(folder, **fine_tune):
    folder.mkdir()
    sampling = {"num_steps": 30, "guidance_scale": 3.0}
    config = {"seed": 5, "sampling": sampling, "fine_tune": {"base": "", **fine_tune}}
    record = {"format": 1, "config": config}
    (folder / RUN_FILE).write_text(json.dumps(record))
    return folder


def test_a_finished_fine_tuning_is_its_pipeline(text_model, tmp_path):
    run = fine_tuning(tmp_path / "mine", steps=3)
    (run / "pipeline").symlink_to(text_model)
    model = load_model(run)
    assert (model.name, model.path) == ("mine", run)
    assert model.pipeline is not None
    assert model.record["config"]["fine_tune"]["steps"] == 3
    assert model.config["seed"] == 5
    options = sampling_options(model)  # its own where it says so, else the scheduler's
    assert (options.num_steps, options.guidance_scale, options.steps_offset) == (30, 3.0, 1)
    assert options.clip_x0 is None


def test_an_unfinished_fine_tuning_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match=r"not finished.*memjax train"):
        load_model(fine_tuning(tmp_path / "mine"))


def test_a_folder_of_nothing_names_all_that_it_could_be(tmp_path):
    with pytest.raises(ValueError, match=r"not a memjax run.*run\.json.*model_index\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["weights.ckpt", "weights.bin", "notes.txt"])
def test_other_files_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match=name):
        load_model(tmp_path / name)


@pytest.mark.parametrize("name", ["runs/demo/latest", "demo", "../demo", ""])
def test_a_name_that_is_nothing_here_and_no_hub_id_is_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"folder") as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_what_is_for_foreign_models_is_refused_for_a_run(tmp_path):
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"--revision=main and --variant=fp16.*memjax run"):
        load_model(tmp_path, revision="main", variant="fp16")


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: EpsFromV(e, None)])
def test_remat_changes_the_networks_recipe_alone(text_model, wrap):
    bundle = load_model(text_model).bundle
    found = with_remat(bundle._replace(eps_fn=wrap(bundle.eps_fn))).eps_fn
    inner = found.v_fn if isinstance(found, EpsFromV) else found
    assert isinstance(inner, LinenEps)
    assert inner.module.config == dataclasses.replace(bundle.eps_fn.module.config, remat=True)
    plain = PlainEps(len)
    assert with_remat(bundle._replace(eps_fn=plain)).eps_fn is plain


def test_doctor_says_what_text_models_need(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = memjax("doctor").out
    for word in ("transformers", "huggingface_hub", "hub cache", constants.HF_HUB_CACHE, "offline"):
        assert word in said


def test_remat_reaches_the_network_of_a_run():
    from memjax.data.records import chexpert_label_space
    from memjax.training.network import build_network

    unet = {"block_out_channels": (32,), "attention_blocks": (False,)}
    network = build_network(chexpert_label_space(), size=16, unet=unet)
    found = with_remat(_Bundle(network.eps_fn)).eps_fn
    assert found.module.unet == dataclasses.replace(network.module.unet, remat=True)
    assert found.method == network.eps_fn.method


class _Bundle(NamedTuple):
    eps_fn: Any


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_computes_in_the_type_asked_for(run):
    model = load_model(run, "bfloat16")
    assert model.config["model"]["dtype"] == "bfloat16"
    assert model.run is not None
    x = jnp.zeros((1, *model.bundle.sample_shape))
    wide = load_model(run).bundle
    args = (wide.params, x, jnp.zeros(1, int), wide.null_cond)
    narrow = model.bundle.eps_fn(*args)
    np.testing.assert_allclose(narrow, wide.eps_fn(*args), atol=0.1)
    assert not np.array_equal(narrow, wide.eps_fn(*args))

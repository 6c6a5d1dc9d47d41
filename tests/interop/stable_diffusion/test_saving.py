"""What is written comes back bit for bit; targets are whole, or not there."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from safetensors import safe_open

from memjax.interop import load
from memjax.interop.stable_diffusion import saving
from memjax.interop.stable_diffusion.saving import save
from memjax.runtime import files
from tests.interop.stable_diffusion.pipelines import (
    WEIGHTS,
    assert_same,
    assert_sentence,
    folder,
    tiny,
)

DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_load_save_load(tmp_path, kind, dtype):
    first = load(folder(tmp_path / "m", kind), dtype=dtype)
    save(first, tmp_path / "copy")
    second = load(tmp_path / "copy", dtype=dtype)
    assert_same(second.params, first.params)
    for part in ("unet", "vae", "scheduler", "model_index"):
        assert second.settings[part] == first.settings[part]
    assert second.settings["text_encoder"] == first.settings["text_encoder"] | {"dtype": dtype}
    assert (second.unet, second.vae, second.text) == (first.unet, first.vae, first.text)
    assert (second.sampling, second.spec) == (first.sampling, first.spec)
    text = "a photo of zebras"
    assert (second.tokenizer.encode([text]).ids == first.tokenizer.encode([text]).ids).all()
    save(second, tmp_path / "again")
    for name in WEIGHTS.values():
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_the_files_that_are_written(tmp_path):
    save(tiny(), tmp_path / "m")
    found = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*.*")}
    assert found == {
        *WEIGHTS.values(),
        *("model_index.json", "memjax.json", "scheduler/scheduler_config.json"),
        *("unet/config.json", "vae/config.json", "text_encoder/config.json"),
        *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
        *("tokenizer/vocab.json", "tokenizer/merges.txt"),
    }
    for name in WEIGHTS.values():
        with safe_open(tmp_path / "m" / name, "np") as file:
            assert file.metadata() == {"format": "pt"}
    assert os.listdir(tmp_path) == ["m"]


def test_axes_and_names_on_disk(tmp_path):
    """A convolution is stored [out, in, h, w], a matrix [out, in]."""
    save(tiny(), tmp_path / "m")
    params = tiny().unet_params
    with safe_open(tmp_path / "m" / WEIGHTS["unet"], "np") as file:
        kernel = np.asarray(params["down_blocks_0"]["resnets_0"]["conv1"]["kernel"])
        stored = file.get_tensor("down_blocks.0.resnets.0.conv1.weight")
        np.testing.assert_array_equal(stored, kernel.transpose(3, 2, 0, 1))
        dense = np.asarray(params["time_embedding"]["linear_1"]["kernel"])
        np.testing.assert_array_equal(file.get_tensor("time_embedding.linear_1.weight"), dense.T)
        assert file.get_tensor("up_blocks.0.resnets.0.conv_shortcut.weight").shape[2:] == (1, 1)
    table = np.asarray(tiny().text_params["embeddings.token_embedding"]["embedding"])
    with safe_open(tmp_path / "m" / WEIGHTS["text_encoder"], "np") as file:
        stored = file.get_tensor("text_model.embeddings.token_embedding.weight")
        np.testing.assert_array_equal(stored, table)


def test_a_variant(tmp_path):
    halves = jax.tree.map(lambda leaf: leaf.astype("float16"), tiny().params)
    pipeline = tiny()._replace(
        unet_params=halves["unet"], vae_params=halves["vae"], text_params=halves["text_encoder"]
    )
    save(pipeline, tmp_path / "m", variant="fp16")
    assert (tmp_path / "m/unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    found = load(tmp_path / "m", variant="fp16", dtype="float16")
    assert_same(found.params, halves)
    assert set(found.info["sha256"]) == set(found.info["weights"])


def test_a_pipeline_with_parts_we_do_not_keep(tmp_path):
    model = folder(tmp_path / "m")
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    (model / "model_index.json").write_text(json.dumps(index))
    for name in ("safety_checker", "feature_extractor"):
        (model / name).mkdir()
        (model / name / "config.json").write_text("not JSON")
    save(load(model), tmp_path / "copy")
    written = json.loads((tmp_path / "copy/model_index.json").read_text())
    assert written["safety_checker"] == written["feature_extractor"] == [None, None]
    assert not (tmp_path / "copy/safety_checker").exists()


def test_a_flipped_bit_is_named(tmp_path):
    model = folder(tmp_path / "m", fingerprints=True)
    assert load(model).info["sha256"].keys() == set(WEIGHTS.values())
    path = model / WEIGHTS["vae"]
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model\.safetensors is not") as e:
        load(model)
    assert "delete" in assert_sentence(e.value)
    (model / "memjax.json").unlink()
    load(model)


def test_a_file_that_the_fingerprints_do_not_list_is_not_verified(tmp_path):
    model = folder(tmp_path / "m", fingerprints=True)
    record = json.loads((model / "memjax.json").read_text())
    del record["sha256"][WEIGHTS["vae"]]
    (model / "memjax.json").write_text(json.dumps(record))
    assert WEIGHTS["vae"] not in load(model).info["sha256"]


def test_targets_that_are_not_replaced(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name, force, message in (
        ("full", False, "is there already and not empty"),
        ("full", True, "holds something else than a pipeline"),
        ("file", True, "is a file or a link"),
        ("link", True, "is a file or a link"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            save(tiny(), tmp_path / name, force=force)
        assert_sentence(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "link"]
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]


def test_an_empty_folder_and_a_pipeline_with_force(tmp_path):
    (tmp_path / "m").mkdir()
    save(tiny(), tmp_path / "m")
    with pytest.raises(ValueError, match=r"force=True \(--force\)"):
        save(tiny("sd2"), tmp_path / "m")
    save(tiny("sd2"), tmp_path / "m", force=True)
    assert load(tmp_path / "m").prediction == "v"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("moment", ["_write_json", "replace_folder"])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, moment):
    save(tiny(), tmp_path / "m")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(saving, moment, fail)
    for name in ("m", "new"):
        with pytest.raises(OSError, match="no space left"):
            save(tiny("sd2"), tmp_path / name, force=True)
    assert os.listdir(tmp_path) == ["m"]
    assert load(tmp_path / "m").prediction == "eps"


def test_when_the_last_rename_fails_the_old_folder_is_back(tmp_path, monkeypatch):
    save(tiny(), tmp_path / "m")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # as on a network's disk
    real = os.replace

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("no space left")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save(tiny("sd2"), tmp_path / "m", force=True)
    assert os.listdir(tmp_path) == ["m"]
    assert load(tmp_path / "m").prediction == "eps"


def test_progress_and_a_wrong_variant(tmp_path):
    told = []
    save(tiny(), tmp_path / "m", progress=lambda done, total: told.append((done, total)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tiny().params))
    assert told[-1] == (size, size)
    with pytest.raises(ValueError, match="variant is 'a/b'"):
        save(tiny(), tmp_path / "n", variant="a/b")


def test_settings_that_no_longer_describe_the_networks(tmp_path):
    """A network that was replaced without its settings would come back as the old one."""
    vae = type(tiny().vae)(dataclasses.replace(tiny().vae.config, scaling_factor=0.5))
    changes = {
        "scaling_factor 0.5 and 0.18215": {"vae": vae},
        "beta_end 0.02 and 0.012": {"spec": dataclasses.replace(tiny().spec, beta_end=0.02)},
        "prediction 'v' and 'eps'": {"prediction": "v"},
    }
    for message, change in changes.items():
        with pytest.raises(ValueError, match=f"differ in {message}: change") as caught:
            save(tiny()._replace(**change), tmp_path / "m")
        assert_sentence(caught.value)
    assert os.listdir(tmp_path) == []

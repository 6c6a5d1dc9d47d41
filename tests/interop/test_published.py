"""Loading published weights: values in their places, and every key that does not fit is named."""

import json

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from memjax.interop.published import (
    load_dinov2,
    load_inception,
    load_sscd,
    load_xrv,
    read_weights,
)
from tests.models.published.published_cases import CASES, state, weights

LOADERS = {"sscd": load_sscd, "sscd_large": load_sscd, "xrv": load_xrv, "dinov2": load_dinov2}
CONFIG = {"num_attention_heads": 4, "layer_norm_eps": 1e-6}


def write(path, entries):
    save_file(dict(entries), path)
    return path


def dinov2_folder(path, entries, config=None):
    path.mkdir(exist_ok=True)
    write(path / "model.safetensors", entries)
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    return path


def saved(tmp_path, name, entries):
    if name == "dinov2":
        return dinov2_folder(tmp_path / "dinov2", entries)
    return write(tmp_path / f"{name}.safetensors", entries)


@pytest.mark.parametrize("name", LOADERS)
def test_every_weight_finds_its_place(tmp_path, name):
    counter = {"backbone.bn1.num_batches_tracked": np.array(7)} if "sscd" in name else {}
    published = LOADERS[name](saved(tmp_path, name, state(name) | counter))
    assert published.module == CASES[name][0]
    actual = traverse_util.flatten_dict(published.params)
    expected = traverse_util.flatten_dict(weights(name))
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)


@pytest.mark.parametrize("name", LOADERS)
def test_every_key_that_does_not_fit_is_listed(tmp_path, name):
    entries = state(name)
    keys = sorted(key for key in entries if key.endswith("bias") and entries[key].ndim == 1)
    lost, bent = keys[1:3], keys[-2]
    for key in lost:
        del entries[key]
    entries[bent] = entries[bent][:-1]
    prefix = "backbone." if "sscd" in name else ""
    entries[f"{prefix}visitor.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="does not hold") as caught:
        LOADERS[name](saved(tmp_path, name, entries))
    message = str(caught.value)
    lacks, besides, misshapen, _ = message.split("; ")
    assert sorted(lacks.split("it lacks ")[1].split(", ")) == lost
    assert besides == f"it has besides {prefix}visitor.weight"
    assert misshapen.startswith(f"it has misshapen {bent} ({len(entries[bent])},) for ")
    assert message.endswith(".")
    assert "\n" not in message


def test_half_precision_weights_become_float32(tmp_path):
    entries = {key: value.astype(np.float16) for key, value in state("xrv").items()}
    params = load_xrv(write(tmp_path / "half.safetensors", entries)).params
    leaf = params["features.conv0"]["kernel"]
    assert leaf.dtype == np.float32
    np.testing.assert_allclose(leaf, weights("xrv")["features.conv0"]["kernel"], atol=1e-3)


def test_classifier_and_thresholds_of_the_x_ray_network_are_left_out(tmp_path):
    more = {"classifier.weight": np.zeros((18, 9)), "op_threshs": np.zeros(18)}
    params = load_xrv(write(tmp_path / "xrv.safetensors", state("xrv") | more)).params
    assert (
        params.keys() == load_xrv(write(tmp_path / "plain.safetensors", state("xrv"))).params.keys()
    )
    assert not any("classifier" in name or "op_threshs" in name for name in params)


def test_an_ordinary_resnet_is_not_taken_for_sscd(tmp_path):
    entries = {key.removeprefix("backbone."): value for key, value in state("sscd").items()}
    with pytest.raises(ValueError, match=r"does not hold SSCD: it lacks backbone\.bn1\.bias"):
        load_sscd(write(tmp_path / "resnet50.safetensors", entries))


def test_shapes_that_no_network_has(tmp_path):
    entries = state("sscd") | {"backbone.layer1.0.conv2.weight": np.zeros((7, 3), np.float32)}
    with pytest.raises(ValueError, match=r"shapes fit no SSCD|does not hold SSCD"):
        load_sscd(write(tmp_path / "odd.safetensors", entries))


@pytest.mark.parametrize("key", ["fc.weight", "AuxLogits.fc.weight"])
def test_inception_of_imagenet_is_refused(tmp_path, key):
    entries = {key: np.zeros((1000, 4), np.float32)}
    with pytest.raises(ValueError, match="FID is defined with"):
        load_inception(write(tmp_path / "inception.safetensors", entries))


def test_dinov2_folder_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_dinov2(tmp_path / "empty")
    folder = dinov2_folder(tmp_path / "giant", state("dinov2"), {"use_swiglu_ffn": True})
    with pytest.raises(ValueError, match=r"use_swiglu_ffn True \(expected False\)"):
        load_dinov2(folder)
    (folder / "config.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"config\.json is not a JSON object"):
        load_dinov2(folder)


def test_dinov2_names_of_memory_and_of_a_classifier_around_it(tmp_path):
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    entries = {}
    for key, value in state("dinov2").items():
        for ours, theirs in names.items():
            key = key.replace(f"attention.attention.{ours}", f"attention.{theirs}")
        entries["dinov2." + key.replace("attention.output.dense", "attention.o_proj")] = value
    published = load_dinov2(dinov2_folder(tmp_path / "folder", entries))
    actual = traverse_util.flatten_dict(published.params)
    for key, value in traverse_util.flatten_dict(weights("dinov2")).items():
        np.testing.assert_array_equal(actual[key], value)


def test_damaged_and_missing_safetensors(tmp_path):
    path = write(tmp_path / "w.safetensors", state("xrv"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"w\.safetensors is damaged .*; fetch it again\."):
        read_weights(path)
    with pytest.raises(ValueError, match="There is no weights file"):
        read_weights(tmp_path / "none.safetensors")

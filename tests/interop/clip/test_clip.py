"""CLIP models in their folders: both layouts, and everything that can be wrong with them."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from memjax.interop.clip.layouts import open_clip_layout, transformers_layout
from memjax.interop.clip.load import load_clip
from memjax.interop.clip.settings import (
    open_clip_configs,
    open_clip_preprocessing,
    transformers_configs,
    transformers_preprocessing,
)
from memjax.models.clip.text import CLIPText
from memjax.models.clip.vision import CLIPVision
from tests.interop.clip.clip_folders import (
    CAPTIONS,
    OPEN_CLIP_SETTINGS,
    TEXT,
    VISION,
    transformers_settings,
    write_tokenizer,
)
from tests.models.clip.clip_cases import pictures, text_weights, vision_weights

LAYOUTS = {"transformers": transformers_layout, "open_clip": open_clip_layout()}
WEIGHTS = {"transformers": "model.safetensors", "open_clip": "open_clip_model.safetensors"}
SETTINGS = {"transformers": "config.json", "open_clip": "open_clip_config.json"}


@pytest.fixture(scope="module")
def params():
    return {"text": text_weights(TEXT), "vision": vision_weights(VISION)}


def state_of(params, layout):
    """Writes our parameters down in one of the layouts, thirds of fused tensors in their place."""
    state: dict = {}
    for tower, tree in params.items():
        for entries, leaf in jax.tree_util.tree_leaves_with_path(tree):
            place = LAYOUTS[layout](tower, [entry.key for entry in entries])
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
            weight = leaf if axes is None or place.as_is else leaf.transpose(axes)
            if place.third is not None:
                thirds = state.setdefault(place.key, [None] * 3)
                thirds[place.third] = weight
            else:
                state[place.key] = weight
    return {
        key: np.ascontiguousarray(np.concatenate(v) if isinstance(v, list) else v)
        for key, v in state.items()
    }


def write(folder, params, layout):
    folder.mkdir(exist_ok=True)
    save_file(state_of(params, layout), folder / WEIGHTS[layout])
    settings = transformers_settings() if layout == "transformers" else OPEN_CLIP_SETTINGS
    (folder / SETTINGS[layout]).write_text(json.dumps(settings))
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_comes_back(tmp_path, params, layout):
    model = load_clip(write(tmp_path / "clip", params, layout))
    assert (model.text, model.vision) == (CLIPText(TEXT), CLIPVision(VISION))
    assert model.name == "clip"
    for got, want in ((model.text_params, params["text"]), (model.vision_params, params["vision"])):
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)


def test_names_of_the_layouts_by_hand():
    path = ["encoder.layers.3", "self_attn.k_proj", "bias"]
    assert transformers_layout("text", path)[:2] == (
        "text_model.encoder.layers.3.self_attn.k_proj.bias",
        None,
    )
    assert open_clip_layout()("vision", path)[:2] == (
        "visual.transformer.resblocks.3.attn.in_proj_bias",
        1,
    )
    path = ["encoder.layers.0", "mlp.fc2", "kernel"]
    assert open_clip_layout("text.")("text", path) == (
        "text.transformer.resblocks.0.mlp.c_proj.weight",
        None,
        False,
    )
    assert open_clip_layout()("vision", ["visual_projection", "kernel"]) == (
        "visual.proj",
        None,
        True,
    )
    assert transformers_layout("vision", ["visual_projection", "kernel"]).key == (
        "visual_projection.weight"
    )


def test_loaded_towers_run(tmp_path, params):
    model = load_clip(write(tmp_path / "clip", params, "open_clip"), dtype="bfloat16")
    tokens = model.tokenizer.encode(CAPTIONS).ids
    text = jax.jit(model.text.apply)({"params": model.text_params}, tokens).projected
    image = jax.jit(model.vision.apply)({"params": model.vision_params}, pictures(VISION))
    assert (text.shape, image.shape) == ((len(CAPTIONS), 20), (3, 20))
    assert np.isfinite(text).all()
    assert np.isfinite(image).all()
    assert model.vision.config.dtype == "bfloat16"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_keys_of_both_towers_are_listed_in_the_names_of_the_file(tmp_path, params, layout):
    folder = write(tmp_path / "clip", params, layout)
    state = load_file(folder / WEIGHTS[layout])
    keys = sorted(state)
    gone, cut = keys[0], next(key for key in reversed(keys) if state[key].ndim == 2)
    del state[gone]
    state[cut] = np.ascontiguousarray(state[cut][:-1])
    state["unknown.weight"] = np.zeros(3, np.float32)
    state["logit_scale"] = np.float32(4.6)[None]
    save_file(state, folder / WEIGHTS[layout])
    with pytest.raises(ValueError, match="does not hold this CLIP model") as error:
        load_clip(folder)
    said = str(error.value)
    assert f"it lacks {gone};" in said
    assert "it has besides unknown.weight;" in said
    assert f"it has misshapen {cut} (" in said
    assert "logit_scale" not in said


def test_constants_in_older_files_are_left_out(tmp_path, params):
    folder = write(tmp_path / "clip", params, "transformers")
    state = load_file(folder / "model.safetensors")
    state = {key.replace("text_model.", "text_model.text_model."): v for key, v in state.items()}
    state["text_model.embeddings.position_ids"] = np.arange(16)[None]
    state["vision_model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(state, folder / "model.safetensors")
    got = load_clip(folder).text_params
    np.testing.assert_array_equal(jax.tree.leaves(got)[0], jax.tree.leaves(params["text"])[0])


def test_values_that_are_no_weights_are_listed(tmp_path, params):
    folder = write(tmp_path / "clip", params, "transformers")
    good = load_file(folder / "model.safetensors")
    twice = {**good, "text_model.text_projection": np.zeros(1, np.float32)}
    key = "text_model.final_layer_norm.bias"
    twice[key.replace("text_model", "text_model.text_model")] = good[key]
    save_file(twice, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"has besides .*text_model\.final_layer_norm\.bias"):
        load_clip(folder)
    save_file({**good, key: np.arange(64)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"final_layer_norm\.bias I64"):
        load_clip(folder)
    save_file({**good, key: np.full(64, np.nan, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no numbers in text_model\.final_layer_norm\.bias"):
        load_clip(folder)


def test_a_snapshot_in_a_cache_is_named_after_its_model(tmp_path, params):
    folder = tmp_path / "models--owner--clip" / "snapshots" / ("0123456789" * 4)
    folder.mkdir(parents=True)
    assert load_clip(write(folder, params, "transformers")).name == "owner/clip@012345678901"


def test_other_folders_are_refused(tmp_path, params):
    with pytest.raises(ValueError, match=r"has neither config\.json and model\.safetensors nor"):
        load_clip(tmp_path)
    folder = write(tmp_path / "clip", params, "transformers")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"are pickled.*from transformers import CLIPModel"):
        load_clip(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, params):
    folder = write(tmp_path / "clip", params, "transformers")
    write_tokenizer(folder, max_length=77)
    with pytest.raises(ValueError, match="texts of 77, expected at most 518 and 16"):
        load_clip(folder)


def test_settings_of_transformers():
    text, vision = transformers_configs(transformers_settings(), "config.json", "float32")
    assert (text, vision) == (TEXT, VISION)
    older = transformers_settings()
    older["text_config_dict"] = {"projection_dim": 512}
    older["text_config"]["hidden_act"] = "quick_gelu"
    text, _ = transformers_configs(older, "config.json", "bfloat16")
    assert (text.projection_dim, text.hidden_act, text.dtype) == (20, "quick_gelu", "bfloat16")
    with pytest.raises(ValueError, match=r"config\.json has no vision_config, expected the settin"):
        transformers_configs({"text_config": {}}, "config.json", "float32")
    older["vision_config"]["hidden_act"] = "relu"
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        transformers_configs(older, "config.json", "float32")


def test_settings_of_open_clip():
    text, vision = open_clip_configs(OPEN_CLIP_SETTINGS, "open_clip_config.json", "float32")
    assert (text, vision) == (TEXT, VISION)
    # LAION's ViT-bigG-14
    parts = {"width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "layers": 48, "patch_size": 14}
    big = {"embed_dim": 1280, "vision_cfg": parts, "text_cfg": {"width": 1280, "heads": 20}}
    _, vision = open_clip_configs({"model_cfg": big}, "open_clip_config.json", "float32")
    assert (vision.num_heads, vision.intermediate_size, vision.hidden_act) == (16, 8192, "gelu")
    text, _ = open_clip_configs({"model_cfg": {**big, "quick_gelu": True}}, "x", "float32")
    assert text.hidden_act == "quick_gelu"


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_cfg", {"timm_model_name": "vit"}, "timm_model_name='vit'"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"layers=\[3, 4, 6, 3\]"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type='avg'"),
        ("text_cfg", {"hf_model_name": "roberta"}, "hf_model_name='roberta'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask=True"),
    ],
)
def test_other_networks_of_open_clip_are_refused(part, change, message):
    model = {**OPEN_CLIP_SETTINGS["model_cfg"]}
    model[part] = {**model[part], **change}
    with pytest.raises(ValueError, match=message):
        open_clip_configs({"model_cfg": model}, "open_clip_config.json", "float32")


def test_preprocessing_is_that_of_the_files(tmp_path):
    found = open_clip_preprocessing(OPEN_CLIP_SETTINGS, "open_clip_config.json", 24)
    assert found == (24, (0.5, 0.25, 0.125), (0.5, 0.5, 0.5), "bicubic")
    with pytest.raises(ValueError, match=r"resize_mode='squash' \(expected 'shortest'\)"):
        open_clip_preprocessing({"preprocess_cfg": {"resize_mode": "squash"}}, "x", 24)
    assert transformers_preprocessing(tmp_path, 24).mean[0] == pytest.approx(0.48145466)
    settings = {"size": 24, "crop_size": {"height": 24, "width": 24}, "resample": 2}
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = transformers_preprocessing(tmp_path, 24)
    assert found == (24, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bilinear")
    with pytest.raises(ValueError, match=r"images of 24 pixels \(expected 32\)"):
        transformers_preprocessing(tmp_path, 32)
    settings |= {"image_mean": "grey"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"image_mean=grey \(expected one number a channel\)"):
        transformers_preprocessing(tmp_path, 24)

"""CLIP's towers: golden outputs of transformers, causality, pooling, refusals."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.clip.layers import quick_gelu
from memjax.models.clip.text import CLIPText, CLIPTextConfig
from memjax.models.clip.vision import CLIPVision, CLIPVisionConfig
from tests.models.clip.clip_cases import (
    TEXT,
    TEXTS,
    VISIONS,
    ids,
    pictures,
    text_weights,
    vision_weights,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden_clip.npz")


def error(actual, expected):
    assert np.abs(expected[0] - expected[1]).max() > 1e-2  # the examples are told apart
    return np.abs(np.asarray(actual) - expected).max() / np.sqrt(np.mean(expected**2))


@functools.cache
def tower(config):
    return jax.jit(CLIPText(config).apply), {"params": text_weights(config)}


def read(config, tokens):
    run, variables = tower(config)
    return run(variables, jnp.asarray(tokens))


@pytest.mark.parametrize("name", TEXTS)
def test_texts_equal_the_golden_output_of_transformers(name):
    features = read(TEXTS[name], ids())
    keys = ["hidden", "pooled"] + ["projected"] * (TEXTS[name].projection_dim is not None)
    for key in keys:
        expected = GOLDEN[f"text_{name}_{key}"]
        # float32 rounding; measured 1e-6
        assert error(getattr(features, key), expected) < 2e-5, str(GOLDEN["header"])
    assert (features.projected is None) == ("projected" not in keys)


@pytest.mark.parametrize("name", VISIONS)
def test_images_equal_the_golden_output_of_transformers(name):
    config = VISIONS[name]
    actual = jax.jit(CLIPVision(config).apply)({"params": vision_weights(config)}, pictures(config))
    # float32 rounding; measured 1e-6
    assert error(actual, GOLDEN[f"vision_{name}"]) < 2e-5, str(GOLDEN["header"])


def test_tokens_see_only_those_before_them():
    changed = ids()
    changed[:, 7] = 5
    before, after = read(TEXT, ids()).hidden, read(TEXT, changed).hidden
    np.testing.assert_allclose(after[:, :7], before[:, :7], atol=1e-6)
    assert np.abs(after[:, 7:] - before[:, 7:]).min(axis=(0, 2)).max() > 1e-4
    assert np.abs(after[:, -1] - before[:, -1]).max() > 1e-3


@pytest.mark.parametrize(("eos", "expected"), [(57, [11, 1, 6, 4]), (2, [11, 1, 3, 4])])
def test_texts_are_pooled_by_the_rule_of_their_configuration(eos, expected):
    module = CLIPText(dataclasses.replace(TEXT, eos_token_id=eos))
    assert module.end_of_text(jnp.asarray(ids())).tolist() == expected


def test_padding_after_the_end_changes_no_pooled_text():
    other = ids()
    other[3, 5:] = 1
    np.testing.assert_allclose(read(TEXT, other).pooled, read(TEXT, ids()).pooled, atol=1e-6)


def test_bfloat16_stays_near_and_keeps_float32_results():
    features = read(dataclasses.replace(TEXT, dtype="bfloat16"), ids())
    assert features.hidden.dtype == features.projected.dtype == jnp.float32
    # eight bits of mantissa through three layers
    assert 1e-4 < error(features.hidden, GOLDEN["text_quick_gelu_hidden"]) < 0.1
    config = dataclasses.replace(VISIONS["quick_gelu"], dtype="bfloat16")
    actual = jax.jit(CLIPVision(config).apply)({"params": vision_weights(config)}, pictures(config))
    assert 1e-4 < error(actual, GOLDEN["vision_quick_gelu"]) < 0.1


def test_quick_gelu_by_hand():
    x = np.array([-3.0, -0.5, 0.0, 2.0])
    np.testing.assert_allclose(quick_gelu(jnp.asarray(x)), x / (1 + np.exp(-1.702 * x)), rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "inputs", "parameters"),
    [
        # OpenAI's ViT-L/14: the text tower without its projection is Stable Diffusion 1's.
        (CLIPText(CLIPTextConfig()), jnp.zeros((1, 77), jnp.int32), 123_060_480),
        (CLIPVision(CLIPVisionConfig()), jnp.zeros((1, 224, 224, 3)), 303_966_208),
    ],
)
def test_full_size_has_the_published_number_of_parameters(module, inputs, parameters):
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            CLIPTextConfig,
            {"num_heads": 5},
            "hidden_size is 768, expected a multiple of num_heads=5",
        ),
        (CLIPTextConfig, {"hidden_act": "relu"}, "hidden_act is 'relu', expected one of"),
        (CLIPVisionConfig, {"num_heads": 0}, "expected a multiple of num_heads=0"),
        (CLIPVisionConfig, {"image_size": 9}, "image_size is 9, expected at least one patch"),
    ],
)
def test_impossible_recipes_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_texts_and_images_of_another_size_are_refused():
    long = jax.ShapeDtypeStruct((1, 13), jnp.int32)
    with pytest.raises(ValueError, match="texts have 13 tokens, expected at most 12"):
        jax.eval_shape(CLIPText(TEXT).init, jax.random.key(0), long)
    wide = jax.ShapeDtypeStruct((1, 24, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="images are 24×32 pixels, expected 24×24"):
        jax.eval_shape(CLIPVision(VISIONS["quick_gelu"]).init, jax.random.key(0), wide)

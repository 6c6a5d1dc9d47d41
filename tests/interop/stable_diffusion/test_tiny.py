"""The tiny pipeline: by its seed, of both kinds, changed on request."""

import jax
import numpy as np
import pytest

from memjax.interop import load, save, tiny_pipeline
from tests.interop.stable_diffusion.pipelines import assert_same, tiny


def test_kinds_differ_as_the_published_models_do():
    first, second = tiny("sd1"), tiny("sd2")
    assert (first.prediction, second.prediction) == ("eps", "v")
    assert (first.text.config.hidden_act, second.text.config.hidden_act) == ("quick_gelu", "gelu")
    assert first.settings["unet"]["attention_head_dim"] == 4
    assert second.settings["unet"]["attention_head_dim"] == [2, 4]
    assert not first.settings["unet"]["use_linear_projection"]
    assert second.settings["unet"]["use_linear_projection"]
    assert first.sample_shape == second.sample_shape == (16, 16, 4)


def test_the_seed_decides():
    assert_same(tiny_pipeline("sd1").params, tiny("sd1").params)
    other = tiny_pipeline("sd1", seed=1)
    kernels = [p.unet_params["conv_in"]["kernel"] for p in (tiny("sd1"), other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_it_is_tiny():
    count = sum(leaf.size for leaf in jax.tree.leaves(tiny().params))
    assert count < 2_000_000


def test_changes(tmp_path):
    changed = {"block_out_channels": (32, 32), "attention_blocks": (True, True)}
    pipeline = tiny_pipeline(
        "sd1",
        latent_size=8,
        dtype="bfloat16",
        words=("nodule",),
        unet=changed | {"cross_attention_dim": 16},
        vae={"block_out_channels": (8, 16, 16), "norm_num_groups": 4},
        text={"num_layers": 1},
    )
    assert pipeline.dtype == "bfloat16"
    assert pipeline.unet.config.dtype == "bfloat16"
    assert pipeline.text.config.hidden_size == 16
    assert pipeline.settings["vae"]["sample_size"] == 32
    assert pipeline.tokenizer.words("nodule")[1] == "nodule"
    assert pipeline.tokenizer.words("cat")[1:4] == ["c", "a", "t"]
    found = load(save(pipeline, tmp_path / "m"), dtype="bfloat16")
    assert_same(found.params, pipeline.params)
    assert (found.unet, found.vae, found.text) == (pipeline.unet, pipeline.vae, pipeline.text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sd3"}, "kind is 'sd3', expected 'sd1' or 'sd2'"),
        ({"kind": "sd1", "latent_size": 7}, "image size 7 is not divisible by 2"),
        ({"kind": "sd1", "dtype": "int8"}, "dtype is 'int8'"),
        ({"kind": "sd1", "text": {"hidden_size": 64}}, "cross_attention_dim and .* are 32 and 64"),
        ({"kind": "sd1", "vae": {"latent_channels": 8}}, "latent_channels are 4 and 8"),
    ],
)
def test_changes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**options)

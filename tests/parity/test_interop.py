"""Folders and single files against diffusers: it loads ours, we load its, outputs are the same."""

import logging

import jax
import numpy as np
import pytest

from memjax.core.types import TokenCond
from memjax.interop import load, save, tiny_pipeline
from tests.interop.stable_diffusion.original_files import TEXT, UNET, VAE, original_state, state
from tests.interop.stable_diffusion.pipelines import assert_same, tiny

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.parity,
    # 2026-11-22: diffusers 0.42.1 and transformers 5.23.0 warn about each other's changes.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TEXTS = ["a photo of zebras", "", "A  Red CIRCLE!? 12 Ünï 🙂", "x" * 200]
# float32 sums in another order, as for the networks themselves.
TOLERANCE = 2e-4


def theirs(folder):
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    options = {"local_files_only": True, "safety_checker": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline.from_pretrained(folder, **options)


def close(actual, expected) -> None:
    expected = np.asarray(expected)
    scale = np.sqrt(np.mean(np.square(expected)))
    assert np.abs(np.asarray(actual) - expected).max() <= TOLERANCE * scale


def assert_same_outputs(ours, pipe) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *ours.sample_shape)).astype(np.float32)
    words = rng.normal(size=(2, 77, 32)).astype(np.float32)
    t = np.array([981, 3], np.int32)
    cond = TokenCond(words, np.ones((2, 77), bool))
    with torch.no_grad():
        nchw = torch.tensor(x).permute(0, 3, 1, 2)
        unet = pipe.unet(nchw, torch.tensor(t), torch.tensor(words)).sample.permute(0, 2, 3, 1)
        images = pipe.vae.decode(nchw).sample.permute(0, 2, 3, 1)
        ids = pipe.tokenizer(
            TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        text = pipe.text_encoder(ids)[0]
    np.testing.assert_array_equal(ours.tokenizer.encode(TEXTS).ids, ids)
    close(jax.jit(ours.unet.apply)({"params": ours.unet_params}, x, t, cond), unet)
    decoded = ours.vae.apply({"params": ours.vae_params}, x, method="decode")
    close(decoded, images)
    close(ours.text.apply({"params": ours.text_params}, np.asarray(ids)).hidden, text)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_diffusers_loads_what_is_saved(tmp_path, kind):
    ours = tiny(kind)
    pipe = theirs(save(ours, tmp_path / "ours"))
    assert_same_outputs(ours, pipe)
    assert pipe.scheduler.config.prediction_type == {"sd1": "epsilon", "sd2": "v_prediction"}[kind]
    assert pipe.scheduler.config.steps_offset == 1
    assert pipe.vae_scale_factor == ours.vae.config.downscale
    # And back: what diffusers writes is what we wrote.
    pipe.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert_same(again.params, ours.params)
    assert (again.unet, again.vae, again.text) == (ours.unet, ours.vae, ours.text)
    assert (again.spec, again.sampling) == (ours.spec, ours.sampling)
    np.testing.assert_array_equal(
        again.tokenizer.encode(TEXTS).ids, ours.tokenizer.encode(TEXTS).ids
    )


def test_diffusers_loads_a_variant(tmp_path):
    halves = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), tiny().params)
    pipeline = tiny()._replace(
        unet_params=halves["unet"], vae_params=halves["vae"], text_params=halves["text_encoder"]
    )
    folder = save(pipeline, tmp_path / "m", variant="fp16")
    options = {"variant": "fp16", "torch_dtype": torch.float16, "local_files_only": True}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, **options)
    stored = pipe.unet.conv_in.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(stored, halves["unet"]["conv_in"]["kernel"])


def test_shards_and_variants_of_diffusers(tmp_path):
    """Index and shard names as diffusers and transformers themselves write them."""
    pipe = theirs(save(tiny(), tmp_path / "ours"))
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="1MB", variant="fp16")
    names = {path.name for path in (tmp_path / "shards/unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in names
    assert len([name for name in names if "-of-" in name]) > 1
    assert_same(load(tmp_path / "shards", variant="fp16").params, tiny().params)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_original_names_are_those_that_diffusers_converts(kind):
    from diffusers.loaders import single_file_utils as conversion

    linear = kind == "sd2"
    pipeline = tiny_pipeline(
        kind,
        unet={
            "block_out_channels": (64, 64, 128),
            "attention_blocks": (True, True, False),
            "num_heads": (1, 1, 2) if linear else 8,
            "layers_per_block": 2,
            "norm_num_groups": 32,
        },
        vae={"block_out_channels": (32, 32, 64), "norm_num_groups": 32, "layers_per_block": 2},
    )
    tensors = {k: torch.tensor(np.array(v)) for k, v in original_state(pipeline).items()}
    unet = conversion.convert_ldm_unet_checkpoint(dict(tensors), pipeline.settings["unet"])
    compare(unet, state(pipeline.unet_params, linear))
    vae = conversion.convert_ldm_vae_checkpoint(dict(tensors), pipeline.settings["vae"])
    compare(vae, state(pipeline.vae_params))
    assert {name.split(".")[0] for name in tensors if "." in name} == {
        *(prefix.rstrip(".").split(".")[0] for prefix in (UNET, VAE, TEXT)),
        "model_ema",
    }


def test_open_clip_names_are_those_that_diffusers_converts():
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    pipeline = tiny("sd2")
    tensors = {k: torch.tensor(np.array(v)) for k, v in original_state(pipeline).items()}
    width = pipeline.text.config.hidden_size
    tensors[f"{TEXT}model.text_projection"] = torch.eye(width)
    sizes = {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": 4}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=600, num_hidden_layers=2, **sizes))
    found = convert_open_clip_checkpoint(model, tensors)
    expected = state(pipeline.text_params)
    found = {name.removeprefix("text_model."): array for name, array in found.items()}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].reshape(array.shape), array)


def compare(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].reshape(array.shape), array, err_msg=name)

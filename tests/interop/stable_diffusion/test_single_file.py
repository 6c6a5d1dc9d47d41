"""A single file in the original repositories' names gives the same pipeline as the folder."""

import ml_dtypes
import numpy as np
import pytest

from memjax.interop import load
from memjax.interop.clip.tiny_tokenizer import tiny_tokenizer
from tests.interop.stable_diffusion import original_files
from tests.interop.stable_diffusion.original_files import (
    TEXT,
    UNET,
    VAE,
    original_state,
    published_like,
)
from tests.interop.stable_diffusion.pipelines import assert_same, assert_sentence


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def model(request, tmp_path_factory):
    """A pipeline, its tensors in the original names, and a folder with its tokenizer."""
    pipeline = published_like(request.param)
    words = tmp_path_factory.mktemp(request.param) / "tokenizer"
    pipeline.tokenizer.save(words)
    return pipeline, original_state(pipeline), words


@pytest.fixture
def write(tmp_path):
    return lambda tensors, metadata=None: original_files.write(
        tmp_path / "model.safetensors", tensors, metadata
    )


def test_everything_comes_back(model, write):
    pipeline, tensors, words = model
    found = load(write(tensors), tokenizer=words)
    assert_same(found.params, pipeline.params)
    assert (found.unet, found.vae, found.text) == (pipeline.unet, pipeline.vae, pipeline.text)
    assert (found.spec, found.sampling) == (pipeline.spec, pipeline.sampling)
    assert found.info["kind"] == "single file"
    linear = pipeline.settings["unet"]["use_linear_projection"]
    assert found.settings["unet"]["use_linear_projection"] == linear


def test_prediction_by_convention_and_by_request(model, write):
    pipeline, tensors, words = model
    path = write(tensors)
    second = pipeline.prediction == "v"
    found = load(path, tokenizer=words)
    assert (found.prediction, found.sample_shape[0]) == (("v", 96) if second else ("eps", 64))
    assert len(found.info["notes"]) == second
    assert all("prediction='eps'" in note for note in found.info["notes"])
    other = load(path, tokenizer=words, prediction="eps")
    assert (other.prediction, other.sample_shape[0], other.info["notes"]) == ("eps", 64, [])
    assert other.settings["scheduler"]["prediction_type"] == "epsilon"
    with pytest.raises(ValueError, match="prediction is 'x0', expected 'eps' or 'v'"):
        load(path, tokenizer=words, prediction="x0")


KEY = "modelspec.prediction_type"


@pytest.mark.parametrize(("written", "prediction"), [("v", "v"), ("epsilon", "eps")])
def test_metadata_decide_the_prediction(model, write, written, prediction):
    pipeline, tensors, words = model
    found = load(write(tensors, {KEY: written}), tokenizer=words)
    assert found.prediction == prediction
    second = pipeline.prediction == "v"
    assert found.sample_shape[0] == (96 if second and prediction == "v" else 64)
    unusual = prediction == "v" and not second
    assert (
        found.info["notes"]
        == [
            "The prediction v was taken from the metadata (modelspec.prediction_type), but Stable "
            "Diffusion 1 usually predicts eps."
        ]
        * unusual
    )


def test_what_is_asked_for_counts_more_than_the_metadata(model, write):
    _, tensors, words = model
    for written in ("v", "sample"):
        found = load(write(tensors, {KEY: written}), tokenizer=words, prediction="eps")
        assert found.prediction == "eps"
        assert found.info["notes"] == [
            f"The prediction eps was given, but the metadata ({KEY}) names '{written}'."
        ]
    agreed = load(write(tensors, {KEY: "epsilon"}), tokenizer=words, prediction="eps")
    assert agreed.info["notes"] == []


def test_another_prediction_in_the_metadata_is_refused(model, write):
    with pytest.raises(ValueError, match="names the prediction 'sample', expected 'eps") as caught:
        load(write(model[1], {KEY: "sample"}), tokenizer=model[2])
    assert_sentence(caught.value)


TARGET = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n"


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        (f'{TARGET}    parameterization: "v"  # not eps\n', "v"),
        (f"{TARGET}    # parameterization: v\n    parameterization: eps\n", "eps"),
        (f"{TARGET}    # parameterization: v\n", "eps"),
        ("model: of another kind\n", None),
    ],
    ids=["v", "eps", "silent", "another"],
)
def test_a_configuration_beside_the_file_is_read(model, write, tmp_path, text, prediction):
    pipeline, tensors, words = model
    (tmp_path / "model.yaml").write_text(text)
    found = load(write(tensors), tokenizer=words)
    assert found.prediction == (prediction or pipeline.prediction)
    silent = prediction is None and pipeline.prediction == "v"
    assert any("do not say" in note for note in found.info["notes"]) == silent


def test_metadata_count_more_than_the_configuration_beside_the_file(model, write, tmp_path):
    _, tensors, words = model
    (tmp_path / "model.yaml").write_text("parameterization: v")
    found = load(write(tensors, {KEY: "epsilon"}), tokenizer=words)
    assert found.prediction == "eps"
    assert found.info["notes"] == [
        f"The prediction eps was taken from the metadata ({KEY}), but the file model.yaml names "
        "'v'."
    ]


def test_a_tokenizer_that_pads_as_stable_diffusion_1_is_told(model, write, tmp_path):
    pipeline, tensors, _ = model
    tiny_tokenizer().save(tmp_path / "words")
    notes = load(write(tensors), tokenizer=tmp_path / "words", prediction="eps").info["notes"]
    assert len(notes) == (pipeline.prediction == "v")
    assert all("expected 0 for the text encoder of Stable Diffusion 2" in note for note in notes)


def test_the_tokenizer_must_be_given(model, write):
    with pytest.raises(ValueError, match="holds no tokenizer; give the folder of one") as caught:
        load(write(model[1]))
    assert_sentence(caught.value)


def test_half_precision(model, write):
    pipeline, tensors, words = model
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    found = load(write(halves), tokenizer=words, dtype="float16")
    original = np.asarray(pipeline.unet_params["conv_in"]["kernel"]).astype(np.float16)
    np.testing.assert_array_equal(found.unet_params["conv_in"]["kernel"], original)


def test_keys_that_do_not_fit_are_listed(model, write):
    _, tensors, words = model
    lost = f"{UNET}middle_block.1.norm.bias"
    tensors = {name: array for name, array in tensors.items() if name != lost}
    tensors[f"{UNET}middle_block.7.norm.bias"] = np.zeros(3, np.float32)
    tensors[f"{UNET}input_blocks.1.0.in_layers.9.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"lacks mid_block\.attentions\.0\.norm\.bias; ") as caught:
        load(write(tensors), tokenizer=words)
    message = assert_sentence(caught.value)
    assert f"{UNET}middle_block.7.norm.bias" in message
    assert f"{UNET}input_blocks.1.0.in_layers.9.bias" in message


@pytest.mark.parametrize("place", ["visitor.weight", f"{VAE}visitor", f"{TEXT}visitor"])
def test_tensors_of_no_part_are_listed(model, write, place):
    _, tensors, words = model
    with pytest.raises(ValueError, match=place.replace(".", r"\.")) as caught:
        load(write(tensors | {place: np.zeros(3, np.float32)}), tokenizer=words)
    assert_sentence(caught.value)


def test_what_a_training_run_leaves_in_the_file_is_passed_over(model, write):
    pipeline, tensors, words = model
    more = {
        f"{VAE}loss.discriminator.main.0.weight": np.ones(3),
        "model_ema.diffusion_modelinput_blocks00weight": np.ones(3),
        "betas": np.ones(1000),
        "sqrt_one_minus_alphas_cumprod": np.ones(1000),
        "log_one_minus_alphas_cumprod": np.ones(1000),
        "sqrt_recip_alphas_cumprod": np.ones(1000),
        "sqrt_recipm1_alphas_cumprod": np.ones(1000),
        "posterior_mean_coef1": np.ones(1000),
        "posterior_log_variance_clipped": np.ones(1000),
    }
    assert_same(load(write(tensors | more), tokenizer=words).params, pipeline.params)


def test_a_file_of_8_bits_is_refused_by_the_weights(model, write):
    _, tensors, words = model
    names = ("alphas_cumprod", f"{UNET}time_embed.0.bias")
    eighths = {name: tensors[name].astype(ml_dtypes.float8_e4m3fn) for name in names}
    with pytest.raises(ValueError, match=r"U-Net .* quantized to 8 bits \(F8_E4M3\)"):
        load(write(tensors | eighths), tokenizer=words)


def test_another_schedule_is_refused(model, write):
    _, tensors, words = model
    for other in (np.linspace(1, 0, 1000), tensors["alphas_cumprod"][:500]):
        with pytest.raises(ValueError, match="another noise schedule than"):
            load(write(tensors | {"alphas_cumprod": other}), tokenizer=words)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_schedule_is_compared_as_rounded_in_the_file(model, write, dtype):
    pipeline, tensors, words = model
    rounded = tensors["alphas_cumprod"].astype(dtype)
    found = load(write(tensors | {"alphas_cumprod": rounded}), tokenizer=words)
    assert found.spec == pipeline.spec
    # A terminal signal-to-noise ratio of zero: near everywhere, another at the end.
    roots = np.sqrt(tensors["alphas_cumprod"].astype(np.float64))
    other = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    with pytest.raises(ValueError, match="another noise schedule than"):
        load(write(tensors | {"alphas_cumprod": other.astype(dtype)}), tokenizer=words)


@pytest.mark.parametrize(
    ("name", "model_name"),
    [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("lora_unet_down_blocks_0.alpha", "a LoRA"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
    ],
)
def test_other_models_are_named(model, write, name, model_name):
    with pytest.raises(ValueError, match=f"{model_name}, which is not supported"):
        load(write({name: np.zeros(3, np.float32)}), tokenizer=model[2])


def test_inpainting_is_refused(model, write):
    _, tensors, words = model
    first = f"{UNET}input_blocks.0.0.weight"
    wide = np.concatenate([tensors[first], tensors[first], tensors[first][:, :1]], axis=1)
    with pytest.raises(ValueError, match="in_channels and its out_channels are 9 and 4") as caught:
        load(write(tensors | {first: wide}), tokenizer=words)
    assert "no inpainting" in assert_sentence(caught.value)


@pytest.mark.parametrize("prefix", [UNET, VAE, TEXT])
def test_a_file_without_one_of_the_networks(model, write, prefix):
    _, tensors, words = model
    rest = {name: array for name, array in tensors.items() if not name.startswith(prefix)}
    with pytest.raises(ValueError, match="is not a whole Stable Diffusion 1 or 2") as caught:
        load(write(rest), tokenizer=words)
    assert prefix in assert_sentence(caught.value)

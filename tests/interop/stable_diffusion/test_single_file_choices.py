"""What a single file leaves open or says of itself: averages, schedule, marks, distillation."""

import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.interop import load, save
from memjax.interop.clip.tiny_tokenizer import tiny_tokenizer
from tests.interop.stable_diffusion import original_files
from tests.interop.stable_diffusion.original_files import UNET, original_state, published_like
from tests.interop.stable_diffusion.pipelines import assert_same, assert_sentence, change, folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pipeline = published_like("sd1")
    words = tmp_path_factory.mktemp("sd1") / "tokenizer"
    pipeline.tokenizer.save(words)
    return pipeline, original_state(pipeline), words


@pytest.fixture
def read(model, tmp_path):
    """Writes tensors as ``name.safetensors`` with more tensors beside, and loads them."""

    def written(more=None, metadata=None, name="model", **options):
        file = tmp_path / f"{name}.safetensors"
        original_files.write(file, model[1] | (more or {}), metadata)
        return load(file, **{"tokenizer": model[2]} | options)

    return written


def averages(tensors, change=lambda array: array + 1):
    """As the original repositories name them: without points."""
    return {
        "model_ema." + name.removeprefix("model.").replace(".", ""): change(array)
        for name, array in tensors.items()
        if name.startswith(UNET)
    } | {"model_ema.decay": np.float32(0.9999), "model_ema.num_updates": np.int32(3)}


def test_averaged_weights_are_chosen_and_said(model, read):
    pipeline, tensors, _ = model
    both = averages(tensors)
    silent, own, ema = (read(both, weights=choice) for choice in (None, "model", "ema"))
    for found in (silent, own):
        assert_same(found.params, pipeline.params)
        assert found.info["variant"] is None
    assert any(
        "averaged weights" in note and "--weights=ema" in note for note in silent.info["notes"]
    )
    assert own.info["notes"] == []
    assert ema.info["notes"] == [
        "The averaged weights of the U-Net (model_ema.…) were taken, as asked."
    ]
    assert ema.info["variant"] == "ema"
    kernel = np.asarray(pipeline.unet_params["conv_in"]["kernel"])
    np.testing.assert_array_equal(ema.unet_params["conv_in"]["kernel"], kernel + 1)
    assert_same(ema.vae_params, pipeline.vae_params)


def test_averaged_weights_that_are_not_there(model, read, tmp_path):
    with pytest.raises(ValueError, match="has no averaged weights") as caught:
        read(weights="ema")
    assert_sentence(caught.value)
    some = averages(model[1])
    del some["model_ema.diffusion_modelout2bias"]
    with pytest.raises(ValueError, match=r"lacks averaged weights of .*out2bias"):
        read(some, weights="ema")
    with pytest.raises(ValueError, match="expected 'model' or 'ema'"):
        read(weights="averaged")
    with pytest.raises(ValueError, match=r"weights was given for .*, which is not a single file"):
        load(folder(tmp_path / "folder"), weights="ema")


def yaml(**fields) -> str:
    lines = [f"    {name}: {value}" for name, value in fields.items()]
    target = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n"
    return target + "\n".join(lines) + "\n"


def test_the_schedule_of_the_configuration_is_taken_and_said(model, read, tmp_path):
    pipeline, tensors, _ = model
    (tmp_path / "model.yaml").write_text(yaml(linear_start="0.0015", linear_end="0.0195  # LDM"))
    spec = ScheduleSpec("scaled_linear", 1000, 0.0015, 0.0195)
    found = read({"alphas_cumprod": np.asarray(spec.build().alphas_bar)})
    assert found.spec == spec
    assert "taken from the file model.yaml: 1000 steps, 0.0015 to 0.0195" in found.info["notes"][0]
    with pytest.raises(ValueError, match=r"another noise schedule than model\.yaml's .* 0\.0195"):
        read({"alphas_cumprod": tensors["alphas_cumprod"]})
    usual = yaml(linear_start="0.00085", linear_end="0.0120", timesteps=1000, num_timesteps_cond=1)
    (tmp_path / "model.yaml").write_text(usual)
    found = read()
    assert (found.spec, found.info["notes"]) == (pipeline.spec, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"beta_schedule": "cosine"},
        {"linear_end": 1.5},
        {"timesteps": 10**9},
        {"timesteps": "many"},
        {"linear_start": 0.5},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_schedule_that_is_not_supported(read, tmp_path, fields):
    usual = {"linear_start": 0.00085, "linear_end": 0.012}
    (tmp_path / "model.yaml").write_text(yaml(**usual | fields))
    with pytest.raises(
        ValueError, match=r"model\.yaml names a noise schedule that is not"
    ) as caught:
        read()
    assert_sentence(caught.value)


def test_marks_of_other_programs(read):
    found = read({"v_pred": np.zeros(0, np.float32)})
    assert found.prediction == "v"
    assert "taken from the mark v_pred" in found.info["notes"][0]
    with pytest.raises(ValueError, match=r"signal-to-noise ratio of zero \(ztsnr\)") as caught:
        read({"ztsnr": np.zeros(0, np.float32)})
    assert_sentence(caught.value)


@pytest.mark.parametrize(
    "name", ["sd_turbo", "DreamShaper8_LCM", "Hyper-SD15-4step", "rv51-lightning"]
)
def test_names_of_distilled_models_are_said(read, name):
    notes = read(name=name).info["notes"]
    assert len(notes) == 1
    assert "--num_steps=4 --guidance_scale=1" in notes[0]
    assert "50 steps at guidance 7.5" in notes[0]
    titled = read(metadata={"modelspec.title": name}).info["notes"]
    assert titled == notes


@pytest.mark.parametrize("name", ["hyperrealism_v3", "turbovision", "flashback", "film grain"])
def test_other_names_say_nothing(read, name):
    assert read(name=name).info["notes"] == []


def test_a_distilled_folder_is_said_after_conversion_too(model, read, tmp_path):
    save(read(name="sd_turbo"), tmp_path / "plain")
    assert any("'sd_turbo.safetensors'" in note for note in load(tmp_path / "plain").info["notes"])
    other = folder(tmp_path / "unet")
    change(other / "unet/config.json", _name_or_path="C:\\models\\sd-turbo")
    assert any("'sd-turbo'" in note for note in load(other).info["notes"])


@pytest.mark.parametrize("scheduler", ["LCMScheduler", "TCDScheduler"])
def test_a_distilled_scheduler_is_refused(tmp_path, scheduler):
    other = folder(tmp_path / "lcm")
    change(other / "scheduler/scheduler_config.json", _class_name=scheduler)
    with pytest.raises(ValueError, match=f"names the {scheduler}: .* distilled from") as caught:
        load(other)
    assert_sentence(caught.value)
    other = folder(tmp_path / f"guided-{scheduler}")
    change(other / "unet/config.json", time_cond_proj_dim=256)
    with pytest.raises(ValueError, match=r"time_cond_proj_dim=256 .* latent consistency models"):
        load(other)


def test_a_tokenizer_that_pads_as_stable_diffusion_2_is_told(model, read, tmp_path):
    tiny_tokenizer(pad_token="!").save(tmp_path / "words")
    notes = read(tokenizer=tmp_path / "words").info["notes"]
    assert len(notes) == 1
    assert "expected the end token for the text encoder of Stable Diffusion 1" in notes[0]


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".sft"])
def test_other_endings_of_safetensors(model, tmp_path, ending):
    file = original_files.write(tmp_path / f"model{ending}", model[1])
    assert load(file, tokenizer=model[2]).info["notes"] == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("768x512", (64, 96)), ("512x512", (64, 64)), ("513x513", (64, 64)), ("large", (64, 64))],
)
def test_the_resolution_of_the_metadata_is_taken_and_said(read, text, size):
    """Width before height, in pixels; this autoencoder makes 4 of one."""
    text = text.replace("768x512", "384x256").replace("512x512", "256x256")
    found = read(metadata={"modelspec.resolution": text})
    assert found.sample_shape[:2] == size
    assert any("384 × 256 pixels" in note for note in found.info["notes"]) == (size != (64, 64))
    assert found.settings["unet"]["sample_size"] == (64 if size == (64, 64) else [64, 96])


def test_a_whole_network_that_is_missing_is_named(model, tmp_path):
    rest = {name: array for name, array in model[1].items() if not name.startswith("first_stage")}
    file = original_files.write(tmp_path / "no_vae.safetensors", rest)
    with pytest.raises(ValueError, match=r"it lacks the autoencoder \(VAE\): first_stage_model"):
        load(file, tokenizer=model[2])

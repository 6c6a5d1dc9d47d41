"""Images of tiny Stable Diffusions whose tokenizers are the published ones, against diffusers'."""

import shutil

import numpy as np
import pytest

from memjax.detectors import detect
from memjax.interop import load, make_bundle, save, tiny_pipeline
from tests.models.drawn import draw
from tests.models.stable_diffusion_cases import noise, to_bytes
from tests.parity.published_tokenizers import write, write_vocabulary

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
PROMPT = "The no limits business woman podcast, a cat! 🙂"
MODELS = {
    "stabilityai/stable-diffusion-2-1": ("sd2", 0),
    "CompVis/stable-diffusion-v1-4": ("sd1", 49407),
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "tokenizer"
    write_vocabulary(folder)
    return folder


def _generated(folder) -> np.ndarray:
    pipeline = load(folder)
    assert pipeline.info["notes"] == []
    bundle = make_bundle(pipeline)
    options = {k: v for k, v in pipeline.sampling.items() if k != "stepper"}
    cond = bundle.encode([{"caption": PROMPT}])
    start = (bundle.eps_fn, bundle.params, noise(1), cond, bundle.null_cond, bundle.schedule)
    return to_bytes(bundle.decode(detect(*start, **options).images[0])).astype(int)


@pytest.mark.parametrize("name", MODELS)
def test_images_are_those_of_diffusers(tmp_path, vocabulary, name):
    torch.set_num_threads(1)
    kind, pad = MODELS[name]
    ids = {"vocab_size": 49_408, "eos_token_id": 49_407}
    made = tiny_pipeline(kind, text={**ids, "num_heads": 1})
    made = made._replace(
        unet_params=draw(made.unet_params),
        vae_params=draw(made.vae_params),
        text_params=draw(made.text_params),
    )
    folder = save(made, tmp_path / "model")
    shutil.rmtree(folder / "tokenizer")
    write(folder / "tokenizer", vocabulary, name)
    for file in vocabulary.iterdir():  # links out of the folder are refused
        (folder / "tokenizer" / file.name).unlink()
        shutil.copy(file, folder / "tokenizer")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    assert theirs.tokenizer.pad_token_id == pad
    start = torch.from_numpy(noise(1).transpose(0, 3, 1, 2).copy())
    options = {"num_inference_steps": 50, "guidance_scale": 7.5, "output_type": "np"}
    expected = np.round(theirs(PROMPT, latents=start, **options).images * 255).astype(int)
    found = _generated(folder)
    assert expected.std() > 30
    assert np.abs(found - expected).max() <= 1
    if kind == "sd1":
        return
    # The other way to pad gives other images: the test tells them apart.
    theirs.tokenizer.pad_token = "<|endoftext|>"
    start = torch.from_numpy(noise(1).transpose(0, 3, 1, 2).copy())
    other = np.round(theirs(PROMPT, latents=start, **options).images * 255).astype(int)
    assert np.abs(other - expected).max() > 5

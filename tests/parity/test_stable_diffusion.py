"""Whole guided generations against torch: tiny Stable Diffusion 1 and 2, text to image, float32."""

import jax
import numpy as np
import pytest

from memjax.detectors import detect
from memjax.interop import load, make_bundle
from tests.interop.clip.clip_folders import CAPTIONS
from tests.models.stable_diffusion_cases import CASES, SCALE, noise, to_bytes, weights

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
# torch, diffusers and transformers warn about their own deprecations.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
STEPS, GENERATIONS = 50, 4
PROMPTS = [CAPTIONS[0], CAPTIONS[2]]  # the second is longer than the text tower reads


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """Returns a case's name, diffusers' pipeline and what memjax makes of its folder."""
    from tests.parity.torch_stable_diffusion import pipeline

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    theirs = pipeline(request.param, folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "model")
    return request.param, theirs, load(folder / "model")


@pytest.fixture(scope="module")
def generated(saved):
    """Returns what the torch loop finds, and what memjax finds from the same noise."""
    from tests.parity.torch_stable_diffusion import generate

    name, theirs, ours = saved
    tokens = theirs.tokenizer(
        [*PROMPTS, ""], padding="max_length", truncation=True, return_tensors="np"
    )
    nets = {part: getattr(theirs, part) for part in ("unet", "vae", "text_encoder")}
    x_T = noise(GENERATIONS)
    expected = generate(name, nets, tokens["input_ids"], x_T, STEPS)
    bundle = make_bundle(ours)
    options = dict(ours.sampling)
    assert (options.pop("stepper"), options["num_steps"]) == ("ddim", STEPS)
    assert options["guidance_scale"] == SCALE
    found = detect(
        bundle.eps_fn,
        bundle.params,
        x_T,
        bundle.encode([{"caption": text} for text in PROMPTS]),
        bundle.null_cond,
        bundle.schedule,
        **options,
    )
    return expected, found, bundle


def test_weights_are_read_bit_by_bit(saved):
    name, _, ours = saved
    for part, params in weights(name).items():
        for got, want in zip(
            jax.tree.leaves(ours.params[part]), jax.tree.leaves(params), strict=True
        ):
            np.testing.assert_array_equal(got, want)


def test_magnitudes_of_all_steps_equal_the_loop_in_torch(generated):
    expected, found, _ = generated
    want = expected.magnitudes.reshape(len(PROMPTS), GENERATIONS, STEPS)
    assert want.std(axis=-1).min() > 0.1  # the curves are no constants
    np.testing.assert_allclose(found.per_step, want, rtol=1e-4)  # measured 3e-6


def test_images_equal_the_loop_in_torch(generated):
    expected, found, bundle = generated
    latents = found.images.reshape(expected.latents.shape)
    error = np.abs(latents - expected.latents).max() / np.sqrt(np.mean(expected.latents**2))
    assert error < 1e-4  # fifty guided steps; measured 5e-6
    got, want = to_bytes(bundle.decode(latents)), to_bytes(expected.images)
    assert want.std() > 50
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_images_equal_the_pipeline_of_diffusers(saved, generated):
    _, theirs, _ = saved
    _, found, bundle = generated
    latents = torch.from_numpy(noise(GENERATIONS).transpose(0, 3, 1, 2).copy())
    expected = theirs(
        PROMPTS[0],
        latents=latents,
        num_images_per_prompt=GENERATIONS,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="np",
    ).images
    got = to_bytes(bundle.decode(found.images[0]))
    want = np.round(expected * 255).astype(int)
    assert np.abs(got.astype(int) - want).max() <= 1

"""A short guided generation of tiny Stable Diffusions against the plain loop in torch."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.types import TokenCond
from memjax.detectors import NoiseMagnitude
from memjax.models.clip.text import CLIPText
from memjax.models.vae import AutoencoderKL
from memjax.sampling import sample
from tests.models.stable_diffusion_cases import (
    CASES,
    GOLDEN_STEPS,
    SCALE,
    SPEC,
    noise,
    prompts,
    to_bytes,
    weights,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden_stable_diffusion.npz")


@functools.partial(jax.jit, static_argnums=0)
def generate(name, params, ids, x_T):
    """Text to latents and magnitudes: the last row of ``ids`` is the empty prompt."""
    case = CASES[name]
    hidden = CLIPText(case.text).apply({"params": params["text_encoder"]}, ids).hidden
    cond = TokenCond(hidden, jnp.ones(ids.shape, bool))
    found = sample(
        case.eps_fn,
        params["unet"],
        jnp.tile(x_T, (len(ids) - 1, 1, 1, 1)),
        jax.tree.map(lambda leaf: jnp.repeat(leaf[:-1], len(x_T), axis=0), cond),
        jax.tree.map(lambda leaf: leaf[-1:], cond),
        SPEC.build(),
        guidance_scale=SCALE,
        num_steps=GOLDEN_STEPS,
        steps_offset=1,
        set_alpha_to_one=False,
        tap={"magnitude": NoiseMagnitude()},
    )
    return found.x, found.taps["magnitude"]


def decode(name, params, latents):
    vae = AutoencoderKL(CASES[name].vae)
    latents = latents / CASES[name].vae.scaling_factor
    return jax.jit(lambda p, z: vae.apply({"params": p}, z, method="decode"))(params, latents)


@pytest.mark.parametrize("name", CASES)
def test_text_to_image_equals_the_golden_run_in_torch(name):
    params = weights(name)
    latents, magnitudes = generate(name, params, prompts(), noise(2))
    expected = GOLDEN[f"{name}_latents"]
    # float32 rounding through ten guided steps; measured 5e-6
    error = np.abs(np.asarray(latents) - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < 1e-4, str(GOLDEN["header"])
    expected = GOLDEN[f"{name}_magnitudes"]
    assert expected.std(axis=1).min() > 0.1  # the curves are no constants
    np.testing.assert_allclose(np.asarray(magnitudes).T, expected, rtol=1e-4)
    if name == "sd2":  # the same autoencoder as of sd1
        return
    expected = GOLDEN[f"{name}_images"]
    assert expected.std() > 50
    images = decode(name, params["vae"], latents)
    assert np.abs(to_bytes(images).astype(int) - expected.astype(int)).max() <= 1

"""What the tiny base learns before it is fine-tuned."""

import jax
import numpy as np
import pytest

from memjax import interop
from memjax.data.images import to_unit
from memjax.data.phantoms.scenes import draw_scenes
from memjax.runs.tiny_base import pretrain
from tests.training.latent_sets import tiny_base

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def trained():
    base = tiny_base()
    scenes = draw_scenes(3, 12, 16)
    images = to_unit(np.stack([scene.image for scene in scenes]))
    told = []
    weights = pretrain(
        base,
        images,
        [scene.caption for scene in scenes],
        steps=60,
        batch_size=4,
        seed=1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(k, 60) for k in range(1, 61)]
    return base, images, [scene.caption for scene in scenes], weights


def error(base, weights, images, captions):
    """Mean squared error of the predicted noise, with and without captions."""
    bundle = interop.make_bundle(base)
    mean = base.vae.apply({"params": base.vae_params}, images, method="encode").mean
    x0 = base.vae.config.scaling_factor * np.asarray(mean)
    noise = np.asarray(jax.random.normal(jax.random.key(8), x0.shape))
    t = np.full(len(x0), 500, np.int32)
    clean, noisy = bundle.schedule.sqrt_alphas_bar[500], bundle.schedule.sigmas[500]
    x_t = clean * x0 + noisy * noise
    conds = bundle.encode([{"caption": text} for text in captions])
    eps = bundle.eps_fn(weights, x_t, t, conds)
    return float(np.mean((np.asarray(eps) - noise) ** 2))


def test_it_predicts_noise_better_than_before(trained):
    base, images, captions, weights = trained
    before = error(base, base.unet_params, images, captions)
    assert error(base, weights, images, captions) < 0.8 * before
    again = error(base, weights, images, [""] * len(captions))
    assert again < 0.8 * error(base, base.unet_params, images, [""] * len(captions))


def test_no_steps_change_nothing():
    base = tiny_base()
    assert pretrain(base, np.zeros((2, 16, 16, 3)), ["a", "b"], steps=0) is base.unet_params

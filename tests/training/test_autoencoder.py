"""The small autoencoder: it keeps colors untrained, and training makes it better."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.data.images import to_unit
from memjax.data.phantoms.scenes import draw_scenes
from memjax.models.initial import draw_params
from memjax.models.vae import AutoencoderKL, VAEConfig
from memjax.training.autoencoder import autoencoder_loss, averaging_start, train_autoencoder

VAE = AutoencoderKL(
    VAEConfig(
        block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=2, mid_attention=False
    )
)
IMAGES = to_unit(np.stack([scene.image for scene in draw_scenes(3, 12, 16)]))


@pytest.fixture(scope="module")
def drawn():
    return draw_params(VAE, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def averaged(images):
    n, h, w, c = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2, c).astype(np.float64).mean(axis=(2, 4))


def test_latents_are_averaged_colours_from_the_start(drawn):
    vae = AutoencoderKL(
        VAEConfig(
            block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=2, mid_attention=False
        )
    )
    params = draw_params(vae, jax.random.key(1), jnp.zeros((1, 16, 16, 3)))
    start = averaging_start(vae, params)
    moments = vae.apply({"params": start}, IMAGES, method="encode")
    # The image's own variance moves the scale by about 1 %.
    np.testing.assert_allclose(moments.mean[..., :3], averaged(IMAGES), atol=0.03)
    np.testing.assert_allclose(moments.log_var, -8.0, atol=1e-5)
    decoded = vae.apply({"params": start}, moments.mean, method="decode")
    error = float(jnp.sqrt(jnp.mean((decoded - IMAGES) ** 2)))
    coarse = np.repeat(np.repeat(averaged(IMAGES), 2, axis=1), 2, axis=2)
    assert error < 1.15 * np.sqrt(np.mean((coarse - IMAGES) ** 2))


def test_the_loss_against_numpy(drawn):
    moments = VAE.apply({"params": drawn}, IMAGES, method="encode")
    mean, log_var = (np.asarray(m, np.float64) for m in moments)
    key = jax.random.key(4)
    noise = np.asarray(jax.random.normal(key, mean.shape), np.float64)
    z = jnp.asarray(mean + np.exp(0.5 * log_var) * noise, jnp.float32)
    decoded = np.asarray(VAE.apply({"params": drawn}, z, method="decode"), np.float64)
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).mean()
    expected = ((decoded - IMAGES) ** 2).mean() + 0.3 * kl
    given = autoencoder_loss(VAE, drawn, IMAGES, jax.random.clone(key), 0.3)
    np.testing.assert_allclose(float(given), expected, rtol=1e-4)


def test_training_lowers_the_error_and_repeats_itself(drawn):
    settings = {"steps": 12, "batch_size": 6, "learning_rate": 2e-3, "seed": 5}
    runs = [train_autoencoder(VAE, drawn, IMAGES, **settings) for _ in range(2)]
    untrained = VAE.apply({"params": drawn}, IMAGES)
    assert runs[0].error < 0.9 * float(jnp.sqrt(jnp.mean((untrained - IMAGES) ** 2)))
    for one, two in zip(*(jax.tree.leaves(run.params) for run in runs), strict=True):
        np.testing.assert_array_equal(one, two)
    mean = VAE.apply({"params": runs[0].params}, IMAGES, method="encode").mean
    assert runs[0].scaling_factor == pytest.approx(1 / float(jnp.std(mean)), rel=1e-3)


def test_another_shape_is_refused(drawn):
    deep = AutoencoderKL(VAEConfig(block_out_channels=(16, 16, 16), norm_num_groups=2))
    with pytest.raises(ValueError, match="two levels"):
        averaging_start(deep, drawn)

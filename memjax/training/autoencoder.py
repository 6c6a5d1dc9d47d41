"""Training a small autoencoder for latent diffusion: reconstruction and a touch of KL.

References:
    Rombach et al. 2022, arXiv 2112.10752, §3.1 and appendix G (KL-regularised autoencoder); the
    perceptual and adversarial terms are left out, which small flat pictures do not need.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.models.vae import AutoencoderKL


class TrainedAutoencoder(NamedTuple):
    """Weights and how good they are.

    Attributes:
        params: The weights.
        scaling_factor: ``1 / std`` of the latents' means: what diffusion multiplies them with.
        error: RMS error of the reconstruction from the mean, in units of [−1, 1].
    """

    params: Params
    scaling_factor: float
    error: float


def autoencoder_loss(
    vae: AutoencoderKL,
    params: Params,
    images: Float[Array, "b h w c"],
    key: Array,
    kl_weight: Array | float,
) -> Float[Array, ""]:
    """Returns ``mean (D(z) − x)² + λ KL(q(z|x) ‖ N(0, 1))`` per pixel and per latent number.

    Args:
        vae: The autoencoder.
        params: Its weights.
        images: In [−1, 1].
        key: Decides ``z ~ q(z|x)``.
        kl_weight: λ.
    """
    moments: Any = vae.apply({"params": params}, images, method="encode")
    noise = jax.random.normal(key, moments.mean.shape)
    z = moments.mean + jnp.exp(0.5 * moments.log_var) * noise
    decoded = vae.apply({"params": params}, z, method="decode")
    kl = 0.5 * jnp.mean(moments.mean**2 + jnp.exp(moments.log_var) - 1.0 - moments.log_var)
    return jnp.mean((decoded - images) ** 2) + kl_weight * kl


def train_autoencoder(
    vae: AutoencoderKL,
    params: Params,
    images: Float[np.ndarray, "n h w c"],
    *,
    steps: int,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    kl_weight: float = 1e-6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedAutoencoder:
    """Trains with Adam and a cosine of the learning rate; the same seed gives the same weights.

    Args:
        vae: The autoencoder.
        params: Its weights at the start.
        images: In [−1, 1].
        steps: Updates; 0 only measures.
        batch_size: Pictures an update.
        learning_rate: The peak.
        kl_weight: See :func:`autoencoder_loss`.
        seed: Decides the order and the noise.
        progress: Called with (updates done, in all).
    """
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)))
    opt_state, key = tx.init(params), jax.random.key(seed)

    @jax.jit
    def update(params, opt_state, batch, step):
        def loss(p):
            return autoencoder_loss(vae, p, batch, jax.random.fold_in(key, step), kl_weight)

        grads = jax.grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    rng = np.random.default_rng(seed)
    for step in range(steps):
        rows = rng.integers(len(images), size=batch_size)
        params, opt_state = update(params, opt_state, images[rows], jnp.asarray(step))
        if progress is not None:
            progress(step + 1, steps)
    return TrainedAutoencoder(params, *_quality(vae, params, images[: 8 * batch_size]))


def _quality(vae: AutoencoderKL, params: Params, images: np.ndarray) -> tuple[float, float]:
    moments: Any = vae.apply({"params": params}, images, method="encode")
    mean = moments.mean
    decoded = vae.apply({"params": params}, mean, method="decode")
    error = jnp.sqrt(jnp.mean((decoded - images) ** 2))
    return float(1.0 / jnp.std(mean)), float(error)

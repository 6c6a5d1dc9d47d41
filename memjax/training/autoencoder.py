"""Training a small autoencoder for latent diffusion: reconstruction and a touch of KL.

It starts from weights under which it keeps an image before it is trained at all: drawn weights
have to learn first that colors should pass. Latents are then colors averaged over 2 × 2 pixels,
and decoding interpolates between them. A residual block whose last convolution is zero passes its
input on; a norm whose group holds two large constants of opposite sign scales everything alike; and
SiLU undoes nothing in a pair of channels of opposite sign, since ``silu(u) − silu(−u) = u``.

References:
    Rombach et al. 2022, arXiv 2112.10752, §3.1 and appendix G (KL-regularised autoencoder); the
    perceptual and adversarial terms are left out, which small flat images do not need.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from memjax.core.types import Array, Params
from memjax.models.vae import AutoencoderKL

# The constant beside colors of at most one: an image's own variance then moves the scale by 1 %.
_CONSTANT = 8.0
_LOG_VAR = -8.0
_SMOOTH = np.array([0.25, 0.5, 0.25])


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
        batch_size: Images an update.
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


def averaging_start(vae: AutoencoderKL, params: Params) -> Params:
    """Returns the weights with the colors' way through them laid; the rest stays as drawn.

    Args:
        vae: Two levels of different width, two groups of at least eight channels in every norm,
            three image channels and at least as many latent ones, no attention.
        params: Drawn weights.

    Raises:
        ValueError: The autoencoder is of another shape.
    """
    c = vae.config
    fits = len(set(c.block_out_channels)) == len(c.block_out_channels) == 2
    fits &= min(c.block_out_channels) // 2 >= 8
    fits &= c.norm_num_groups == 2 and c.in_channels == c.out_channels == 3 <= c.latent_channels
    if not fits or c.mid_attention or not (c.use_quant_conv and c.use_post_quant_conv):
        raise ValueError(
            f"{c} is another autoencoder than this start is made for: two levels of at least 16 "
            "channels and different width, norm_num_groups=2, no mid_attention, both quant "
            "convolutions."
        )
    tree = _copied(params)
    _silence(tree)
    _lay_encoder(tree["encoder"], c.latent_channels)
    _lay_decoder(tree["decoder"])
    _set(tree["quant_conv"]["kernel"], np.eye(2 * c.latent_channels))
    _set(tree["post_quant_conv"]["kernel"], np.eye(c.latent_channels))
    return tree


def _copied(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _copied(child) for name, child in tree.items()}
    return np.array(tree)


def _silence(tree: dict[str, Any]) -> None:
    """Makes every residual block pass its input on."""
    for name, child in tree.items():
        if name == "conv2":
            child["kernel"][...] = 0.0
        elif isinstance(child, dict):
            _silence(child)


def _set(target: np.ndarray, value: np.ndarray) -> None:
    target[...] = value


def _colors(kernel: np.ndarray, taps: np.ndarray, signs: tuple[int, ...] = (1,)) -> None:
    """Passes the first three channels on, once a sign, through the taps of a convolution."""
    outs = 3 * len(signs)
    kernel[..., :outs] = 0.0
    for place, sign in enumerate(signs):
        for color in range(3):
            kernel[..., color, 3 * place + color] = sign * taps


_HERE = np.zeros((3, 3))
_HERE[1, 1] = 1.0
_SQUARE = np.zeros((3, 3))
_SQUARE[:2, :2] = 0.25


def _pair(shortcut: dict[str, np.ndarray], group: int) -> None:
    """Colors, their negatives and two constants fill the first group of a norm to come."""
    shortcut["kernel"][:, :group] = 0.0
    _colors(shortcut["kernel"], np.array(1.0), (1, -1))
    shortcut["bias"][6:8] = (_CONSTANT, -_CONSTANT)


def _read_pair(head: dict[str, np.ndarray], group: int, outs: int) -> None:
    """``silu(u) − silu(−u)``, scaled back to colors, and nothing else into the first outputs."""
    scale = _CONSTANT * np.sqrt(2.0 / group)
    head["kernel"][..., :outs] = 0.0
    for color in range(3):
        head["kernel"][1, 1, color, color] = scale
        head["kernel"][1, 1, 3 + color, color] = -scale


def _lay_encoder(tree: dict[str, Any], latents: int) -> None:
    _colors(tree["conv_in"]["kernel"], _HERE)
    _colors(tree["down_blocks_0"]["downsamplers_0_conv"]["kernel"], _SQUARE)
    shortcut = tree["down_blocks_1"]["resnets_0"]["conv_shortcut"]
    group = shortcut["kernel"].shape[1] // 2
    _pair(shortcut, group)
    _read_pair(tree["conv_out"], group, 3)
    tree["conv_out"]["kernel"][..., latents:] = 0.0
    tree["conv_out"]["bias"][latents:] = _LOG_VAR


def _lay_decoder(tree: dict[str, Any]) -> None:
    _colors(tree["conv_in"]["kernel"], _HERE)
    blurred = np.outer(_SMOOTH, _SMOOTH)
    _colors(tree["up_blocks_0"]["upsamplers_0_conv"]["kernel"], blurred)
    shortcut = tree["up_blocks_1"]["resnets_0"]["conv_shortcut"]
    group = shortcut["kernel"].shape[1] // 2
    _pair(shortcut, group)
    _read_pair(tree["conv_out"], group, 3)

"""Denoising loss at fixed noise: where training and held-out images part, memorizing begins.

References:
    Arxiv 2505.16959 (training and validation loss diverge when memorizing begins); Dar et al.,
    arXiv 2402.01054 (over-training raises memorization).
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.process import q_sample
from memjax.core.types import Array, Bundle, Cond
from memjax.evaluate.statistics.bootstrap import Interval, difference_interval, rate_interval

_CHUNK = 32


@partial(jax.jit, static_argnames=("eps_fn",))
def _losses(eps_fn, params, schedule, x0, cond, t, noise):
    x_t = q_sample(schedule, x0, t, noise)
    gap = eps_fn(params, x_t, t, cond) - noise
    return jnp.mean(jnp.square(gap), axis=tuple(range(1, gap.ndim)))


def denoising_losses(
    bundle: Bundle,
    images: Float[np.ndarray, "n h w c"],
    encode: Callable[[np.ndarray], Cond],
    *,
    timesteps: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, "n k"]:
    """Returns ``mean‖ε − ε_θ(x_t, t, c)‖²/d`` of each image at each of some timesteps.

    Noise and timesteps depend on the seed and the image's position alone, so that checkpoints of
    one run, and images of two kinds, are compared under the same noise.

    Args:
        bundle: The model.
        images: Clean images in [-1, 1] (states, for a model in pixel space).
        encode: Row numbers → their conditions.
        timesteps: How many, evenly spaced over the schedule.
        seed: Decides the noise.
    """
    total = bundle.schedule.num_timesteps
    grid = ((np.arange(timesteps) + 0.5) * total / timesteps).astype(np.int32)
    out = np.zeros((len(images), timesteps), np.float32)
    for start in range(0, len(images), _CHUNK):
        rows = np.arange(start, start + _CHUNK).clip(max=len(images) - 1)
        real = min(_CHUNK, len(images) - start)
        x0, cond = jnp.asarray(images[rows], jnp.float32), encode(rows)
        for k, t in enumerate(grid):
            noise = _noise(seed, start, k, x0)
            at = jnp.full((_CHUNK,), t, jnp.int32)
            losses = _losses(bundle.eps_fn, bundle.params, bundle.schedule, x0, cond, at, noise)
            out[start : start + real, k] = np.asarray(losses)[:real]
    return out


def _noise(seed: int, start: int, k: int, like: Array) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), start), k)
    return jax.random.normal(key, like.shape, like.dtype)


def mean_loss(losses: Float[np.ndarray, "n k"]) -> Interval:
    """Returns the mean loss with an interval over images."""
    return rate_interval(losses.mean(axis=1))


def loss_gap(train: Float[np.ndarray, "n k"], held_out: Float[np.ndarray, "n k"]) -> Interval:
    """Returns held-out minus training loss, row by row under the same noise, with an interval."""
    count = min(len(train), len(held_out))
    return difference_interval(train[:count].mean(axis=1), held_out[:count].mean(axis=1))


def stopping_point(
    steps: Sequence[int], gaps: Sequence[Interval], *, share: float = 0.05, losses: Sequence[float]
) -> int | None:
    """Returns the last step before training and held-out loss part for good, or None.

    They have parted where the whole interval of held-out minus training loss lies above
    ``share · training loss``, at this checkpoint and at every later one.

    Args:
        steps: Steps of the checkpoints, ascending.
        gaps: Of :func:`loss_gap`.
        share: How large a gap counts.
        losses: Training loss at each checkpoint.

    Returns:
        The last checkpoint before that; the first one if they had parted there already; None if
        they never do.
    """
    parted = [gap.low > share * loss for gap, loss in zip(gaps, losses, strict=True)]
    for i, step in enumerate(steps):
        if all(parted[i:]):
            return steps[i - 1] if i else step
    return None

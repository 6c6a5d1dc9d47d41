"""The forward process and the conversions between x0, ε, v and score.

References:
    Ho et al. 2020, arXiv 2006.11239, Eq. 4; Salimans and Ho 2022, arXiv 2202.00512, §4 (v).
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array

PREDICTIONS = ("eps", "v")


def coefficients(
    schedule: NoiseSchedule, t: Int[Array, " b"], ndim: int
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """Returns ``(√ᾱ_t, √(1−ᾱ_t))`` shaped to broadcast against an array of ``ndim`` axes."""
    shape = t.shape + (1,) * (ndim - t.ndim)
    signal = jnp.asarray(schedule.sqrt_alphas_bar)[t].reshape(shape)
    noise = jnp.asarray(schedule.sigmas)[t].reshape(shape)
    return signal, noise


def q_sample(
    schedule: NoiseSchedule,
    x0: Float[Array, "b *d"],
    t: Int[Array, " b"],
    eps: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Noises ``x0`` to timestep ``t``: ``√ᾱ_t x0 + √(1−ᾱ_t) ε``."""
    signal, noise = coefficients(schedule, t, x0.ndim)
    return signal * x0 + noise * eps


def x0_from_eps(
    schedule: NoiseSchedule,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    eps: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Returns ``(x_t − √(1−ᾱ_t) ε) / √ᾱ_t``."""
    signal, noise = coefficients(schedule, t, x_t.ndim)
    return (x_t - noise * eps) / signal


def eps_from_x0(
    schedule: NoiseSchedule,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    x0: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Returns ``(x_t − √ᾱ_t x0) / √(1−ᾱ_t)``."""
    signal, noise = coefficients(schedule, t, x_t.ndim)
    return (x_t - signal * x0) / noise


def v_from_eps(
    schedule: NoiseSchedule,
    x0: Float[Array, "b *d"],
    t: Int[Array, " b"],
    eps: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Returns the v target ``√ᾱ_t ε − √(1−ᾱ_t) x0``."""
    signal, noise = coefficients(schedule, t, x0.ndim)
    return signal * eps - noise * x0


def eps_from_v(
    schedule: NoiseSchedule,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    v: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Returns ``√ᾱ_t v + √(1−ᾱ_t) x_t``."""
    signal, noise = coefficients(schedule, t, x_t.ndim)
    return signal * v + noise * x_t


def x0_from_v(
    schedule: NoiseSchedule,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    v: Float[Array, "b *d"],
) -> Float[Array, "b *d"]:
    """Returns ``√ᾱ_t x_t − √(1−ᾱ_t) v``."""
    signal, noise = coefficients(schedule, t, x_t.ndim)
    return signal * x_t - noise * v


def score_from_eps(
    schedule: NoiseSchedule, t: Int[Array, " b"], eps: Float[Array, "b *d"]
) -> Float[Array, "b *d"]:
    """Returns ``∇ log p_t(x_t) = −ε / √(1−ᾱ_t)``."""
    _, noise = coefficients(schedule, t, eps.ndim)
    return -eps / noise

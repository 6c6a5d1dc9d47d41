"""Small networks with known answers, shared by the tests of the methods."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import NoiseMagnitude, first_step_statistics, trajectory_statistics

SHAPE = (4, 4, 1)
DIM = 16
TOKENS = 4
WIDTH = 3
SPEC = ScheduleSpec()


class Toy(NamedTuple):
    """Weights of :func:`toy_eps`."""

    mix: np.ndarray  # [DIM, DIM]
    token: np.ndarray  # [TOKENS, WIDTH, DIM]
    gate: np.ndarray  # [DIM]
    out: np.ndarray  # [DIM, DIM]


def toy_params(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return Toy(
        *(
            (scale * rng.normal(size=shape)).astype(dtype)
            for scale, shape in (
                (0.2, (DIM, DIM)),
                (0.5, (TOKENS, WIDTH, DIM)),
                (1.0, (DIM,)),
                (0.3, (DIM, DIM)),
            )
        )
    )


def toy_eps(params, x_t, t, cond):
    """A smooth nonlinear network in which state, time and every token position matter."""
    flat = x_t.reshape(x_t.shape[0], -1)
    tokens = cond.embeddings * cond.mask[..., None]
    time = jnp.sin(t.astype(flat.dtype) / 300.0)[:, None] * params.gate[None, :]
    hidden = jnp.tanh(flat @ params.mix + jnp.einsum("bld,ldk->bk", tokens, params.token) + time)
    return (hidden @ params.out).reshape(x_t.shape)


def toy_hidden(x_t, t, cond, seed=0):
    """The hidden layer of :func:`toy_eps` in float64, from its definition: ``[b, DIM]``."""
    exact = toy_params(seed, np.float64)
    e = np.asarray(cond.embeddings, np.float64) * np.asarray(cond.mask)[..., None]
    time = np.sin(np.asarray(t, np.float64) / 300)[:, None] * exact.gate
    flat = np.asarray(x_t, np.float64).reshape(len(x_t), -1)
    return np.tanh(flat @ exact.mix + np.einsum("bld,ldk->bk", e, exact.token) + time)


def toy_exact(x_t, t, cond, seed=0):
    """:func:`toy_eps` in float64 NumPy, flat: ``[b, DIM]``."""
    return toy_hidden(x_t, t, cond, seed) @ toy_params(seed, np.float64).out


@dataclasses.dataclass(frozen=True)
class ToyWithMaps:
    """The toy network as an adapter that tells the attention of four layers, in which the state and
    every real token matter."""

    layers: int = 4

    def __call__(self, params, x_t, t, cond):
        return toy_eps(params, x_t, t, cond)

    def with_maps(self, params, x_t, t, cond):
        flat = x_t.reshape(x_t.shape[0], -1)
        heat = 1 + jnp.tanh(flat @ params.mix[:, : self.layers])
        keys = params.token[:, :, : self.layers]
        logits = heat[:, :, None] * jnp.einsum("bld,ldk->bkl", cond.embeddings, keys)
        logits = jnp.where(cond.mask[:, None, :], logits, -jnp.inf)
        return toy_eps(params, x_t, t, cond), jax.nn.softmax(logits, axis=-1)


def tokens(seed, rows, *, padded=0, dtype=np.float32):
    """Random token conditions; the last ``padded`` tokens are padding."""
    rng = np.random.default_rng(seed)
    mask = np.broadcast_to(np.arange(TOKENS) < TOKENS - padded, (rows, TOKENS))
    return TokenCond(
        jnp.asarray(rng.normal(size=(rows, TOKENS, WIDTH)).astype(dtype)), jnp.asarray(mask)
    )


def null_tokens(dtype=np.float32):
    return TokenCond(jnp.zeros((1, TOKENS, WIDTH), dtype), jnp.ones((1, TOKENS), bool))


def noise(seed, rows, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, *SHAPE)).astype(dtype))


class Counting:
    """Counts how often a network is traced: each trace calls it once as a Python function."""

    def __init__(self, fn):
        self.fn = fn
        self.traces = 0

    def __call__(self, params, x_t, t, cond):
        self.traces += 1
        return self.fn(params, x_t, t, cond)


class Mixture(NamedTuple):
    """Isotropic Gaussians whose log weights move with the tokens: ``prior_i + Σ_l ⟨e_l, k_il⟩``."""

    means: np.ndarray  # [n, d]
    variances: np.ndarray  # [n]
    prior: np.ndarray  # [n]
    keys: np.ndarray  # [n, l, k]


@dataclasses.dataclass(frozen=True)
class MixtureEps:
    """The exact noise predictor of a :class:`Mixture` (methods: F1, F2 and F2b in one)."""

    spec: ScheduleSpec = SPEC

    def weights(self, params, x_t, t, cond):
        """Returns posterior weights, and the residual and variance of every component."""
        schedule = self.spec.build()
        signal = jnp.asarray(schedule.sqrt_alphas_bar)[t][:, None]
        sigma = jnp.asarray(schedule.sigmas)[t][:, None]
        flat = x_t.reshape(x_t.shape[0], -1)
        residual = flat[:, None, :] - signal[..., None] * params.means[None]
        variance = signal**2 * params.variances[None, :] + sigma**2
        tokens = cond.embeddings * cond.mask[..., None]
        logits = params.prior[None, :] + jnp.einsum("blk,nlk->bn", tokens, params.keys)
        logits = logits - jnp.sum(residual**2, axis=-1) / (2 * variance)
        logits = logits - 0.5 * flat.shape[1] * jnp.log(variance)
        return jax.nn.softmax(logits, axis=-1), residual, variance, sigma

    def __call__(self, params, x_t, t, cond):
        weights, residual, variance, sigma = self.weights(params, x_t, t, cond)
        pull = jnp.sum((weights / variance)[..., None] * residual, axis=1)
        return (sigma * pull).reshape(x_t.shape)


def auc(positive, negative):
    """Mann-Whitney AUC."""
    wins = np.asarray(positive)[:, None] - np.asarray(negative)[None, :]
    return float(np.mean((wins > 0) + 0.5 * (wins == 0)))


_MAGNITUDE = (("magnitude", NoiseMagnitude()),)


def first_step(*args):
    """The magnitudes of the initial noise, ``[p, g]``."""
    return first_step_statistics(*args, detectors=_MAGNITUDE)["magnitude"]


def trajectory(*args, **sampling):
    """The magnitudes of all steps, and the final states."""
    found, end = trajectory_statistics(*args, detectors=_MAGNITUDE, **sampling)
    return found["magnitude"], end

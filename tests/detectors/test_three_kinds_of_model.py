"""Detector, explanation and mitigation on a Linen, an NNX and a plain-function model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memjax.core.denoiser import Denoiser
from memjax.core.schedules import ScheduleSpec
from memjax.detectors import NoiseMagnitude, detect
from memjax.explain import explain_tokens
from memjax.mitigations import first_step_states, optimize_embedding
from memjax.models.adapters import EpsFromV, LinenEps, PlainEps, nnx_eps
from tests.closed_forms import SHAPE, TOKENS, WIDTH, noise, null_tokens, tokens

SPEC = ScheduleSpec(num_timesteps=200)
SIZE = int(np.prod(SHAPE))
TRACES = []


def _forward(kernel, x_t, t, cond):
    TRACES.append(x_t.shape)
    e = (cond.embeddings * cond.mask[..., None]).reshape(x_t.shape[0], -1)
    time = t.astype(jnp.float32)[:, None] / 200.0
    inputs = jnp.concatenate([x_t.reshape(x_t.shape[0], -1), e, time], axis=1)
    return jnp.tanh(inputs @ kernel).reshape(x_t.shape)


FEATURES = SIZE + TOKENS * WIDTH + 1


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x_t, t, cond):
        kernel = self.param("kernel", nn.initializers.zeros, (FEATURES, SIZE))
        return _forward(kernel, x_t, t, cond)


class NnxModel(nnx.Module):
    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)

    def __call__(self, x_t, t, cond):
        return _forward(self.kernel[...], x_t, t, cond)


def _plain(params, x_t, t, cond):
    return _forward(params["kernel"], x_t, t, cond)


def _kernel(seed):
    return jnp.asarray(0.2 * np.random.default_rng(seed).normal(size=(FEATURES, SIZE)), jnp.float32)


def _model(kind, seed):
    """Builds everything anew, as a caller might: equal adapters must share one trace."""
    kernel = _kernel(seed)
    if kind == "nnx":
        return nnx_eps(NnxModel(kernel))
    return (LinenEps(LinenModel()) if kind == "linen" else PlainEps(_plain)), {"kernel": kernel}


_EXPLAIN = jax.jit(explain_tokens, static_argnames=("eps_fn", "num_steps"))
_OPTIMIZE = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def _everything(kind, seed, scale, rate):
    eps_fn, params = _model(kind, seed)
    x_T, cond, null, schedule = noise(seed, 2), tokens(seed, 3), null_tokens(), SPEC.build()
    sampling = {"num_steps": 3, "guidance_scale": scale}
    found = detect(eps_fn, params, x_T, cond, null, schedule, **sampling)
    weights = _EXPLAIN(eps_fn, params, x_T, cond, null, schedule, **sampling)
    states = first_step_states(eps_fn, params, x_T, jnp.array(132), cond, null)
    before = len(TRACES)
    out = _OPTIMIZE(NoiseMagnitude(), eps_fn, params, states, cond, num_iters=3, learning_rate=rate)
    assert np.all(out.loss < out.losses[0])
    return found.per_step, weights, out.cond.embeddings, len(TRACES) - before


@pytest.fixture(scope="module")
def plain():
    return _everything("plain", 0, 3.0, 0.05)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_all_kinds_agree(kind, plain):
    for got, want in zip(_everything(kind, 0, 3.0, 0.05)[:3], plain[:3], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["linen", "nnx", "plain"])
def test_new_weights_and_numbers_do_not_trace_again(kind):
    _everything(kind, 0, 3.0, 0.05)
    start = len(TRACES)
    *_, optimizing = _everything(kind, 1, 5.0, 0.1)
    # Only first_step_states, which is not jitted here, calls the network as plain Python.
    assert TRACES[start:] == [(2, *SHAPE)]
    assert optimizing == 0


def test_v_prediction_is_seen_as_noise():
    v_fn, params = _model("plain", 0)
    x, t, cond = noise(0, 2), jnp.array([20, 150]), tokens(0, 2)
    eps_fn = EpsFromV(v_fn, SPEC)

    def magnitude(fn):
        net = Denoiser(fn, params, null_tokens())
        return NoiseMagnitude()(net.at(x, t, cond), net)

    got = magnitude(eps_fn)
    # The x_t in ε = √ᾱ v + √(1−ᾱ) x_t cancels: the magnitude is √ᾱ ‖v_c − v_u‖.
    raw = magnitude(v_fn)
    signal = np.sqrt(np.cumprod(1 - SPEC.betas()))[np.asarray(t)]
    np.testing.assert_allclose(got, signal * np.asarray(raw), rtol=1e-4)

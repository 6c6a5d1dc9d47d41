"""One trace for each kind of model while numbers change; the change of prediction."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memjax.core.process import eps_from_x0, q_sample, v_from_eps
from memjax.core.schedules import ScheduleSpec
from memjax.models.adapters import EpsFromV, EpsFromX0, LinenEps, NnxEps, PlainEps, nnx_eps

SPEC = ScheduleSpec("cosine")


class LinenToy(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x, t, cond):
        return nn.Dense(x.shape[-1])(nn.tanh(nn.Dense(self.width)(x))) + cond

    def twice(self, x, t, cond):
        return 2 * self(x, t, cond)


class NnxToy(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(2, 3, rngs=rngs)
        self.outer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x, t, cond):
        return self.outer(jnp.tanh(self.inner(x))) + cond


def plain(params, x, t, cond):
    return params["w"] * x + cond


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4, 2)), jnp.float32)
    return x, jnp.arange(4), jnp.asarray(rng.standard_normal((4, 2)), jnp.float32)


def make(kind, batch, seed=0):
    if kind == "linen":
        module = LinenToy()
        params = module.init(jax.random.key(seed), *batch)["params"]
        return LinenEps(LinenToy()), params, lambda p: module.apply({"params": p}, *batch)
    if kind == "nnx":
        model = NnxToy(nnx.Rngs(seed))
        eps_fn, params = nnx_eps(model)
        return eps_fn, params, lambda p: model(*batch)
    params = {"w": jnp.float32(seed + 1)}
    return PlainEps(plain), params, lambda p: plain(p, *batch)


@pytest.mark.parametrize("kind", ["linen", "nnx", "plain"])
def test_equals_the_model_and_traces_once(kind, batch):
    traces = []

    def call(eps_fn, params, x, t, cond):
        traces.append(eps_fn)
        return eps_fn(params, x, t, cond)

    jitted = jax.jit(call, static_argnums=0)
    for seed in range(3):
        eps_fn, params, direct = make(kind, batch, seed)
        actual = jitted(eps_fn, params, *batch)
        np.testing.assert_allclose(actual, direct(params), rtol=1e-6, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["linen", "nnx", "plain"])
def test_gradient_flows_to_the_condition(kind, batch):
    eps_fn, params, _ = make(kind, batch)
    x, t, cond = batch
    gradient = jax.grad(lambda c: jnp.sum(eps_fn(params, x, t, c)))(cond)
    np.testing.assert_array_equal(gradient, np.ones_like(cond))


def test_linen_method(batch):
    module = LinenToy()
    params = module.init(jax.random.key(0), *batch)["params"]
    once, twice = LinenEps(module)(params, *batch), LinenEps(module, "twice")(params, *batch)
    np.testing.assert_array_equal(twice, 2 * once)
    assert LinenEps(module) != LinenEps(module, "twice")
    assert LinenEps(LinenToy(3)) == LinenEps(LinenToy(3)) != LinenEps(LinenToy(4))


def test_nnx_hash_by_value():
    (a, _), (b, _) = nnx_eps(NnxToy(nnx.Rngs(0))), nnx_eps(NnxToy(nnx.Rngs(1)))
    assert a == b
    assert hash(a) == hash(b)
    assert isinstance(a, NnxEps)


def truth():
    rng = np.random.default_rng(1)
    x0, eps = rng.standard_normal((2, 4, 8, 8, 1)).astype(np.float32)
    t = np.array([0, 10, 500, 990])
    schedule = SPEC.build()
    return schedule, x0, eps, t, q_sample(schedule, x0, t, eps)


def given(params, x, t, cond):
    return cond


def test_v_becomes_eps():
    schedule, x0, eps, t, x_t = truth()
    v = v_from_eps(schedule, x0, t, eps)
    np.testing.assert_allclose(EpsFromV(PlainEps(given), SPEC)(None, x_t, t, v), eps, atol=2e-6)


def test_x0_becomes_eps():
    schedule, x0, _, t, x_t = truth()
    actual = EpsFromX0(PlainEps(given), SPEC)(None, x_t, t, x0)
    np.testing.assert_array_equal(actual, eps_from_x0(schedule, x_t, t, x0))


def test_plain_models_need_no_flax():
    code = (
        "import sys; sys.modules['flax'] = None\n"
        "from memjax.models.adapters import PlainEps, EpsFromV\n"
        "from memjax.models.empirical import EmpiricalDenoiser\n"
        "from memjax.core.schedules import ScheduleSpec\n"
        "import numpy as np\n"
        "x = np.zeros((1, 2, 2, 1), np.float32)\n"
        "EmpiricalDenoiser(ScheduleSpec())(x, x, np.array([5]), np.ones((1, 1), bool))\n"
        "PlainEps(lambda p, x, t, c: x)(None, x, 0, None)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

"""The kernel for TPU, run step by step on this machine, and where it is asked for."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.mesh import announced, make_mesh
from memjax.models.ops import splash_attention
from memjax.models.ops.softmax_attention import attend
from memjax.models.ops.splash_attention import on_one_device, splash_takes
from memjax.runtime.flops import count_flops, count_kernel_flops
from tests.models.ops.test_softmax_attention import in_float64
from tests.training.host_processes import ROOT, environment

SIZE = (1, 256, 384, 2, 40)  # batch, queries, keys, heads, channels of Stable Diffusion 1


def inputs():
    b, queries, keys, h, d = SIZE
    rng = np.random.default_rng(0)
    drawn = (rng.standard_normal((b, n, h, d)) for n in (queries, keys, keys, queries))
    return [jnp.asarray(y, jnp.bfloat16) for y in drawn]


def test_the_kernel_equals_the_formula_and_so_do_its_gradients():
    q, k, v, out = inputs()
    exact = [np.asarray(y, np.float64) for y in (q, k, v)]
    run = functools.partial(on_one_device, interpret=True)
    y, pull = jax.vjp(run, q, k, v)
    assert y.dtype == jnp.bfloat16
    # Eight bits of precision in what goes in and out; statistics are float32.
    np.testing.assert_allclose(np.asarray(y, np.float64), in_float64(*exact), atol=4e-3)

    def formula(q, k, v):
        scores = jnp.einsum("bnhd,blhd->bhnl", q, k) * q.shape[-1] ** -0.5
        return jnp.einsum("bhnl,blhd->bnhd", jax.nn.softmax(scores), v)

    with jax.enable_x64(True):
        _, exact_pull = jax.vjp(formula, *map(jnp.asarray, exact))
        expected = [np.asarray(g) for g in exact_pull(jnp.asarray(out, jnp.float64))]
    for found, right in zip(pull(out), expected, strict=True):
        error = np.linalg.norm(np.asarray(found, np.float64) - right)
        assert error < 6e-3 * np.linalg.norm(right)


def shapes(b=8, n=1024, length=1024, heads=8, dtype=jnp.bfloat16):
    return (jax.ShapeDtypeStruct((b, size, heads, 40), dtype) for size in (n, length))


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch):
    monkeypatch.setenv("MEMJAX_SPLASH_ATTENTION", "1")


@pytest.fixture
def single_tpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True),
        ({"n": 4096, "length": 4096}, True),
        ({"dtype": jnp.float32}, False),
        ({"n": 1000}, False),  # no whole blocks
        ({"length": 77}, False),  # captions
        ({"n": 256, "length": 256}, False),  # too few to be worth it
    ],
)
def test_it_is_taken_for_many_pixels_in_16_bits(single_tpu, changed, taken):
    assert splash_takes(*shapes(**changed), None) == taken


def test_it_is_left_out_with_a_mask_or_unless_asked_for(single_tpu, monkeypatch):
    assert not splash_takes(*shapes(), jnp.ones((8, 1024), bool))
    monkeypatch.delenv("MEMJAX_SPLASH_ATTENTION")
    assert not splash_takes(*shapes(), None)


def test_several_devices_need_a_mesh_that_fits(monkeypatch):
    query, key = shapes()
    assert not splash_takes(query, key, None)  # no TPU, and no mesh announced
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not splash_takes(query, key, None)  # the compiler cannot split a kernel
    with announced(None):
        assert not splash_takes(query, key, None)
    with announced(make_mesh()):
        assert splash_takes(query, key, None)
        assert splash_attention._places(query) == jax.P(("data", "fsdp"), None, "tensor", None)


def test_what_the_kernel_computes_is_counted():
    query, _ = shapes(b=2)
    table = jax.ShapeDtypeStruct((40, 40), jnp.bfloat16)

    def measure(q, k, v, table):
        with announced(make_mesh()):
            return attend(q @ table, k, v)

    products = 2 * 2 * 2 * 8 * 1024 * 1024 * 40
    assert count_kernel_flops(measure, query, query, query, table) == products
    before = 2 * 2 * 8 * 1024 * 40 * 40
    assert count_flops(measure, query, query, query, table) == products + before
    assert count_kernel_flops(attend, query, query, query) == 0  # no mesh, no kernel


SHARDED = """
import functools, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from memjax.core.mesh import announced, make_mesh
from memjax.models.ops import splash_attention as module
mesh = make_mesh(2, 1, 2)
module.on_one_device = functools.partial(module.on_one_device, interpret=True)
rng = np.random.default_rng(0)
q, k, v, out = (jax.numpy.asarray(rng.standard_normal((2, 128, 2, 8)), "bfloat16") for _ in "qkvo")

def run(q, k, v, out):
    with announced(mesh):
        y, pull = jax.vjp(module.splash, q, k, v)
        return y, pull(out)

spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
one = module.on_one_device
expected = (lambda y, pull: (y, pull(out)))(*jax.vjp(one, q, k, v))
found = jax.jit(run)(*(jax.device_put(a, spread) for a in (q, k, v, out)))
for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    assert len({str(s.index) for s in b.addressable_shards}) == 4, b.sharding
    np.testing.assert_array_equal(np.asarray(a, "f4"), np.asarray(b, "f4"))
with announced(mesh):
    odd = jax.ShapeDtypeStruct((3, 1024, 2, 40), "bfloat16")
    assert module._places(odd) is None  # three examples over two devices
"""


@pytest.mark.slow
def test_examples_and_heads_are_split_over_devices():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=environment(4),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

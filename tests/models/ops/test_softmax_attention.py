"""Attention in blocks, written out and by the library: values, gradients, masks, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.ops import softmax_attention
from memjax.models.ops.softmax_attention import attend, block_rows, mean_weights

SIZE = (2, 6, 5, 2, 4)  # batch, queries, keys, heads, channels


def inputs(seed=0):
    b, queries, keys, h, d = SIZE
    rng, rows = np.random.default_rng(seed), (queries, keys, keys)
    q, k, v = (rng.standard_normal((b, n, h, d)).astype(np.float32) for n in rows)
    return q, k, v, np.arange(keys)[None, :] < np.array([keys, 3])[:, None]


def weights_in_float64(q, k, mask=None):
    scores = np.einsum("bnhd,blhd->bhnl", q.astype(np.float64), k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def in_float64(q, k, v, mask=None):
    return np.einsum("bhnl,blhd->bnhd", weights_in_float64(q, k, mask), v)


@pytest.fixture(autouse=True)
def _fresh_traces():
    """A trace of the same shapes would be taken again, whatever was patched since."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture(params=["blocks", "whole", "library"])
def way(request, monkeypatch):
    """Makes :func:`attend` take one of its ways whatever the size."""
    monkeypatch.setattr(softmax_attention, "SMALL", 0)
    if request.param == "blocks":
        monkeypatch.setattr(softmax_attention, "WHOLE", 0)
        monkeypatch.setattr(softmax_attention, "BLOCK", 10)  # two queries of five keys
    if request.param == "library":
        monkeypatch.setattr(softmax_attention, "_in_cache", softmax_attention._by_the_library)
    return request.param


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_formula(way, masked):
    q, k, v, mask = inputs()
    mask = mask if masked else None
    np.testing.assert_allclose(attend(q, k, v, mask), in_float64(q, k, v, mask), atol=2e-6)


def test_gradients_and_their_derivatives_equal_those_of_the_formula(way):
    """First derivatives by all inputs, and a Hessian product: blocks are recomputed for both."""
    q, k, v, mask = inputs()

    def plain(q, k, v):
        scores = jnp.einsum("bnhd,blhd->bhnl", q, k) / 2.0
        scores = jnp.where(mask[:, None, None, :], scores, -1e30)
        return jnp.einsum("bhnl,blhd->bnhd", jax.nn.softmax(scores), v)

    def products(fn):
        gradient = jax.grad(lambda *qkv: jnp.sum(jnp.sin(fn(*qkv))), argnums=(0, 1, 2))
        return jax.jvp(gradient, (q, k, v), (k[:, :1] + 0 * q, v, k))

    ours = jax.jit(lambda: products(lambda q, k, v: attend(q, k, v, mask)))()
    theirs = jax.jit(lambda: products(plain))()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # float32, values up to about 4


def test_large_scores_do_not_overflow(way):
    q, k, v, _ = inputs()
    actual = attend(100 * q, 100 * k, v)
    np.testing.assert_allclose(actual, in_float64(100 * q, 100 * k, v), atol=2e-2)
    # float32 scores of some 10⁴ are known to 10⁻³, and a weight is the exponential of one


def test_bfloat16_inputs_keep_float32_scores(way):
    """Scores up to 40 in bfloat16 would be off by 0.1, hence weights by a tenth."""
    q, k, v, _ = (jnp.asarray(a, jnp.bfloat16) for a in inputs())
    q, k = 4 * q, 4 * k
    expected = in_float64(*(np.asarray(a, np.float32) for a in (q, k, v)))
    actual = attend(q, k, v)
    assert actual.dtype == jnp.bfloat16
    error = np.abs(np.asarray(actual, np.float32) - expected).max()
    assert error < 0.03  # values up to 2.5 in 8 bits, and weights in 8 bits


def test_blocks_keep_the_gradient_from_storing_the_scores(monkeypatch):
    """What the backward pass keeps grows with the queries, not with the pairs."""
    monkeypatch.setattr(softmax_attention, "SMALL", 0)
    q = jax.ShapeDtypeStruct((1, 512, 1, 8), jnp.float32)

    def temporary_bytes(whole):
        jax.clear_caches()  # a trace of the same shapes would be taken again
        monkeypatch.setattr(softmax_attention, "WHOLE", whole)
        monkeypatch.setattr(softmax_attention, "BLOCK", 16 * 512)
        gradient = jax.grad(lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v))), argnums=(0, 1, 2))
        jitted = jax.jit(lambda q, k, v: gradient(q, k, v))
        return jitted.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 512 * 512
    assert temporary_bytes(whole=2**30) > scores
    assert temporary_bytes(whole=0) < scores / 2


@pytest.fixture(params=["whole", "blocks"])
def pieces(request, monkeypatch):
    """Makes :func:`mean_weights` go through the queries in one piece or in several."""
    if request.param == "blocks":
        monkeypatch.setattr(softmax_attention, "SMALL", 0)
        assert block_rows(6, 5, 6 * 4) == 3  # of the six queries, by their four channels
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mean_weights_equal_the_formula(pieces, dtype):
    q, k, _, mask = inputs()
    q, k = (np.asarray(jnp.asarray(3 * a, dtype), np.float32) for a in (q, k))
    found = jax.jit(lambda *qk: [mean_weights(*qk, m) for m in (None, mask)])(
        q.astype(dtype), k.astype(dtype)
    )
    for actual, given in zip(found, (None, mask), strict=True):
        assert actual.dtype == jnp.float32
        # Products of 8-bit mantissas are exact in float32, so 16 bits of input lose no precision.
        expected = weights_in_float64(q, k, given).mean(axis=(1, 2))
        np.testing.assert_allclose(actual, expected, atol=1e-6)
        np.testing.assert_allclose(np.sum(actual, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found[1])[~mask], 0.0)


def test_gradients_of_mean_weights_equal_those_of_the_formula(pieces):
    q, k, _, mask = inputs()

    def plain(q, k):
        scores = jnp.einsum("bnhd,blhd->bhnl", q, k) / 2.0
        scores = jnp.where(mask[:, None, None, :], scores, -1e30)
        return jnp.mean(jax.nn.softmax(scores), axis=(1, 2))

    def gradient(fn):
        return jax.jit(jax.grad(lambda *qk: jnp.sum(jnp.sin(3 * fn(*qk))), argnums=(0, 1)))(q, k)

    ours = gradient(lambda q, k: mean_weights(q, k, mask))
    for a, b in zip(ours, gradient(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # values up to 0.2


def test_a_row_without_any_key_has_no_weights():
    q, k, _, mask = inputs()
    none = mask & np.array([[True], [False]])
    weights = np.asarray(jax.jit(mean_weights)(q, k, none))
    np.testing.assert_array_equal(weights[1], 0.0)
    np.testing.assert_allclose(weights[0].sum(), 1.0, atol=1e-6)


def test_mean_weights_need_no_more_memory_than_the_queries(monkeypatch):
    q = jax.ShapeDtypeStruct((1, 4096, 2, 8), jnp.float32)
    k = jax.ShapeDtypeStruct((1, 64, 2, 8), jnp.float32)
    compiled = jax.jit(lambda q, k: mean_weights(q, k)).lower(q, k).compile()
    assert softmax_attention.SMALL < 4096 * 64
    # All weights would be eight times as large as the queries; a block's are as large.
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * (4 * 4096 * 2 * 8)


@pytest.mark.parametrize(
    ("queries", "keys", "expected"),
    [(4096, 4096, 512), (9216, 9216, 192), (1024, 1024, 1024), (7, 2**22, 1), (4096, 77, 4096)],
)
def test_blocks_divide_the_queries_and_fit(queries, keys, expected):
    assert block_rows(queries, keys) == expected


@pytest.mark.parametrize(
    ("dtype", "head", "masked", "switch", "fused"),
    [
        ("bfloat16", 40, False, "1", True),
        ("float16", 128, False, "1", True),
        ("float32", 40, False, "1", False),
        ("bfloat16", 160, False, "1", False),
        ("bfloat16", 36, False, "1", False),
        ("bfloat16", 40, True, "1", False),
        ("bfloat16", 40, False, "0", False),
    ],
)
def test_cudnn_is_asked_for_where_it_can_answer(monkeypatch, dtype, head, masked, switch, fused):
    asked = []

    def library(query, key, value, mask=None, implementation=None):
        asked.append(implementation)
        if implementation == "cudnn" and head == 128:
            raise NotImplementedError("not on this one")
        return query

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", library)
    monkeypatch.setenv("MEMJAX_CUDNN_ATTENTION", switch)
    x = jnp.zeros((1, 4, 2, head), dtype)
    softmax_attention._by_the_library(x, x, x, jnp.ones((1, 4), bool) if masked else None)
    refused = [None] if head == 128 else []
    assert asked == (["cudnn", *refused] if fused else [None])

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.guidance import (
    CachedNull,
    CompanionNull,
    RandomNull,
    broadcast_cond,
    cache_null,
    guide,
    predict_null,
    predict_pair,
)
from tests.closed_forms import noise as draw
from tests.closed_forms import null_tokens, tokens, toy_eps, toy_params

PARAMS = toy_params()


def test_guide_by_hand():
    # ε_u + s(ε_c − ε_u) = 2 + 3·(5 − 2) = 11; the swapped sign gives −7, swapped halves −4.
    assert guide(jnp.array(2.0), jnp.array(5.0), 3.0) == 11.0


@settings(max_examples=30, deadline=None)
@given(u=st.floats(-5, 5), c=st.floats(-5, 5), s=st.floats(0, 10))
def test_guide_identities(u, c, s):
    eps_u, eps_c = jnp.float32(u), jnp.float32(c)
    assert guide(eps_u, eps_c, 0.0) == eps_u
    np.testing.assert_allclose(guide(eps_u, eps_c, 1.0), eps_c, atol=2e-6)
    assert guide(eps_c, eps_c, s) == eps_c
    np.testing.assert_allclose(guide(eps_u, eps_c, s), u + s * (c - u), atol=1e-4)


@pytest.fixture
def at():
    return PARAMS, draw(1, 3), jnp.array([5, 400, 999])


def test_pair_is_conditional_first_and_equals_two_calls(at):
    params, x, t = at
    cond, null = tokens(2, 3), null_tokens()
    eps_cond, eps_uncond = predict_pair(toy_eps, params, x, t, cond, null)
    np.testing.assert_allclose(eps_cond, toy_eps(params, x, t, cond), atol=1e-6)
    null_rows = broadcast_cond(null, 3)
    np.testing.assert_allclose(eps_uncond, toy_eps(params, x, t, null_rows), atol=1e-6)
    assert np.abs(np.asarray(eps_cond - eps_uncond)).max() > 0.1


def test_cond_equal_to_null_gives_equal_halves(at):
    params, x, t = at
    cond = tokens(3, 3)
    eps_cond, eps_uncond = predict_pair(toy_eps, params, x, t, cond, cond)
    np.testing.assert_array_equal(eps_cond, eps_uncond)


def test_cached_null_stands_in_for_the_null_condition(at):
    params, x, t = at
    cond = tokens(2, 3)
    cached = cache_null(toy_eps, params, x, t, null_tokens())
    assert isinstance(cached, CachedNull)
    pair = predict_pair(toy_eps, params, x, t, cond, null_tokens())
    for got, want in zip(predict_pair(toy_eps, params, x, t, cond, cached), pair, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_no_gradient_flows_through_a_cached_null(at):
    params, x, t = at

    def loss(null):
        return jnp.sum(cache_null(toy_eps, params, x, t, null).eps ** 2)

    null = null_tokens()
    grad = jax.grad(lambda e: loss(null._replace(embeddings=e)))(null.embeddings + 1.0)
    np.testing.assert_array_equal(grad, jnp.zeros_like(null.embeddings))


def test_random_null_is_the_mean_over_its_conditions(at):
    params, x, t = at
    conds = tokens(7, 4)
    got = predict_null(toy_eps, params, x, t, RandomNull(conds))
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], conds) for k in range(4)]
    each = [toy_eps(params, x, t, broadcast_cond(row, 3)) for row in rows]
    np.testing.assert_allclose(
        got, np.mean([np.asarray(e, np.float64) for e in each], 0), atol=1e-6
    )


def test_companion_null_comes_from_the_other_network(at):
    params, x, t = at
    other = toy_params(99)
    companion = CompanionNull(jax.tree_util.Partial(toy_eps, other), null_tokens())
    eps_cond, eps_uncond = predict_pair(toy_eps, params, x, t, tokens(2, 3), companion)
    expected = toy_eps(other, x, t, broadcast_cond(null_tokens(), 3))
    np.testing.assert_allclose(eps_uncond, expected, atol=1e-6)
    np.testing.assert_allclose(eps_cond, toy_eps(params, x, t, tokens(2, 3)), atol=1e-6)


def test_broadcast_leaves_a_full_batch_alone_and_refuses_others():
    full = tokens(0, 3)
    np.testing.assert_array_equal(broadcast_cond(full, 3).embeddings, full.embeddings)
    assert broadcast_cond(null_tokens(), 3).mask.shape[0] == 3
    with pytest.raises(ValueError, match="batch 2, expected 1 or 3"):
        broadcast_cond(tokens(0, 2), 3)

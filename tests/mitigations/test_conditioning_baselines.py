import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.mitigations import Chain, Problem, add_embedding_noise, swap_tokens
from memjax.sampling import sample
from tests.closed_forms import TOKENS, noise, null_tokens, tokens, toy_eps, toy_params

COND = tokens(1, 3, padded=1)
POOL = TokenCond(100.0 + tokens(2, 5).embeddings, tokens(2, 5).mask)


def _images(cond):
    schedule = ScheduleSpec(num_timesteps=200).build()
    args = (toy_eps, toy_params(), noise(0, 3), cond, null_tokens(), schedule)
    return sample(*args, num_steps=3, guidance_scale=3.0).x


@pytest.mark.parametrize(
    "mitigate",
    [
        lambda cond: add_embedding_noise(jax.random.key(1), cond, 0.0),
        lambda cond: swap_tokens(jax.random.key(1), cond, POOL, 0),
    ],
    ids=["noise", "swap"],
)
def test_strength_zero_is_the_identity_bit_for_bit(mitigate):
    mitigated = mitigate(COND)
    np.testing.assert_array_equal(mitigated.embeddings, COND.embeddings)
    np.testing.assert_array_equal(mitigated.mask, COND.mask)
    np.testing.assert_array_equal(_images(mitigated), _images(COND))


@settings(max_examples=5, deadline=None)
@given(scale=st.floats(0.1, 4.0), size=st.floats(0.1, 10.0))
def test_noise_is_relative_to_the_rms_of_the_real_tokens(scale, size):
    e = size * jax.random.normal(jax.random.key(0), (2, 40, 50))
    e = e * jnp.array([1.0, 3.0])[:, None, None]
    mask = jnp.broadcast_to(jnp.arange(40) < 20, (2, 40))
    e = jnp.where(mask[..., None], e, 1e3)  # padding must not count towards the rms
    noisy = add_embedding_noise(jax.random.key(1), TokenCond(e, mask), scale)
    added = np.asarray(noisy.embeddings - e)
    np.testing.assert_array_equal(added[:, 20:], 0.0)
    # The deviation of 1,000 normal draws is known to 2 %.
    np.testing.assert_allclose(
        added[:, :20].std(axis=(1, 2)), scale * size * np.array([1.0, 3.0]), rtol=0.12
    )


def test_noise_by_hand():
    key = jax.random.key(4)
    e = jnp.array([[[3.0, 4.0], [0.0, 5.0]]])  # mean square 12.5
    got = add_embedding_noise(jax.random.clone(key), TokenCond(e, jnp.ones((1, 2), bool)), 0.5)
    expected = np.asarray(e) + 0.5 * np.sqrt(12.5) * np.asarray(jax.random.normal(key, e.shape))
    np.testing.assert_allclose(got.embeddings, expected, rtol=1e-6)


def test_noise_on_an_empty_condition_is_finite():
    empty = TokenCond(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool))
    got = add_embedding_noise(jax.random.key(0), empty, 1.0)
    np.testing.assert_array_equal(got.embeddings, empty.embeddings)


@settings(max_examples=12, deadline=None)
@given(num=st.integers(0, TOKENS - 1), seed=st.integers(0, 999))
def test_swap_replaces_exactly_so_many_tokens_by_those_at_the_same_place(num, seed):
    got = np.asarray(swap_tokens(jax.random.key(seed), COND, POOL, num).embeddings)
    e, pool = np.asarray(COND.embeddings), np.asarray(POOL.embeddings)
    changed = np.any(got != e, axis=-1)
    np.testing.assert_array_equal(changed.sum(axis=1), num)
    assert not changed[:, 0].any()
    for row in range(3):
        if num:
            places = np.flatnonzero(changed[row])
            donor = [k for k in range(5) if np.array_equal(pool[k, places], got[row, places])]
            assert len(donor) == 1


def test_swap_chooses_all_places_and_donors():
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 300, axis=0), COND)
    got = np.asarray(swap_tokens(jax.random.key(0), many, POOL, 1).embeddings)
    changed = np.any(got != np.asarray(many.embeddings), axis=-1)
    # A third each for three places: 300 draws deviate by 8.
    np.testing.assert_allclose(changed.sum(axis=0), [0, 100, 100, 100], atol=40)
    assert len({row[c].tobytes() for row, c in zip(got, changed, strict=True)}) == 15


def test_a_chain_applies_from_left_to_right_and_draws_anew_for_each():
    keys = []

    def then(change):
        def mitigation(problem, setup, key):
            keys.append(key)
            return problem._replace(cond=change(problem.cond))

        mitigation.needs = frozenset()
        return mitigation

    problem = Problem([], None, jnp.array([2.0]), None, jnp.zeros((1, 2)), None)
    chain = Chain("both", (then(lambda c: c + 1.0), then(lambda c: 10.0 * c)))
    key = jax.random.key(3)
    np.testing.assert_array_equal(chain(problem, None, key).cond, [30.0])
    assert keys[0] is key
    assert not np.array_equal(*(jax.random.key_data(k) for k in keys))
    assert Chain("nothing", ())(problem, None, key) is problem


@pytest.mark.parametrize("num", [-1, TOKENS])
def test_impossible_numbers_of_tokens_are_refused(num):
    with pytest.raises(ValueError, match=f"num_tokens is {num}, expected between 0 and 3"):
        swap_tokens(jax.random.key(0), COND, POOL, num)


def test_a_pool_of_another_model_is_refused():
    with pytest.raises(ValueError, match="encode it with the same model"):
        swap_tokens(jax.random.key(0), COND, POOL.embeddings[:, :2], 1)

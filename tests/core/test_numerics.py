import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memjax.core.numerics import per_example_norm


def test_by_hand_over_all_but_the_first_axis():
    # Whole-batch, per-channel, per-row and mean norms of these numbers are all different.
    x = jnp.array([[[3.0, 0.0], [0.0, 4.0]], [[2.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [6.0, 8.0]]])
    np.testing.assert_allclose(per_example_norm(x), [5.0, 3.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(per_example_norm(x, rms=True), [2.5, 1.5, 5.0], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_matches_float64_numpy(x):
    flat = x.reshape(len(x), -1).astype(np.float64)
    expected = np.sqrt((flat**2).sum(axis=1))
    # float32 squares below 1e-38 vanish: the absolute tolerance.
    np.testing.assert_allclose(per_example_norm(x), expected, rtol=1e-6, atol=1e-18)
    np.testing.assert_allclose(
        per_example_norm(x, rms=True), expected / np.sqrt(flat.shape[1]), rtol=1e-6, atol=1e-18
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), copies=st.integers(2, 5))
def test_does_not_depend_on_the_batch(seed, copies):
    x = np.random.default_rng(seed).normal(size=(3, 4, 2)).astype(np.float32)
    order = np.random.default_rng(seed + 1).permutation(3)
    alone = np.concatenate([per_example_norm(row[None]) for row in x])
    np.testing.assert_allclose(per_example_norm(x), alone, rtol=1e-6)
    np.testing.assert_allclose(per_example_norm(x[order]), alone[order], rtol=1e-6)
    np.testing.assert_allclose(
        per_example_norm(np.tile(x, (copies, 1, 1))), np.tile(alone, copies), rtol=1e-6
    )


def test_rms_does_not_change_when_the_image_is_tiled():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 1)).astype(np.float32)
    tiled = np.tile(x, (1, 4, 2, 1))
    np.testing.assert_allclose(
        per_example_norm(tiled, rms=True), per_example_norm(x, rms=True), rtol=1e-6
    )
    assert np.all(per_example_norm(tiled) > 2 * np.asarray(per_example_norm(x)))


def test_gradient_is_the_unit_vector_and_zero_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    grad = jax.grad(lambda v: jnp.sum(per_example_norm(v)))(x)
    np.testing.assert_allclose(grad, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    # 300² overflows float16, and bfloat16 stops counting ones at 256.
    x = jnp.full((1, 1024), 300.0, dtype)
    norm = per_example_norm(x)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, [300.0 * 32], rtol=1e-6)


def test_what_is_not_a_number_stays_so_in_its_own_row():
    x = jnp.array([[jnp.nan, 1.0], [3.0, 4.0], [jnp.inf, 0.0]])
    np.testing.assert_array_equal(per_example_norm(x), [np.nan, 5.0, np.inf])

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.training.objective import (
    denoising_target,
    drop_condition,
    per_example_loss,
    snr_weights,
)

SPEC = ScheduleSpec(num_timesteps=100, beta_end=0.1)


def test_per_example_loss_is_the_mean_over_each_example():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 5, 3, 4, 2))
    expected = [((o - t) ** 2).sum() / 24 for o, t in zip(output, target, strict=True)]
    np.testing.assert_allclose(per_example_loss(output, target), expected, rtol=1e-6)


def test_per_example_loss_is_float32_for_bfloat16_outputs():
    output = jnp.full((1, 1000), 1.0 + 2**-7, jnp.bfloat16)
    loss = per_example_loss(output, jnp.ones((1, 1000)))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, 2.0**-14, rtol=1e-6)


def test_v_target_recovers_eps(key):
    schedule = SPEC.build()
    x0, eps = jax.random.normal(key, (2, 4, 3, 3, 1))
    t = jnp.array([0, 10, 50, 99])
    v = np.asarray(denoising_target(schedule, x0, t, eps, "v"), np.float64)
    alpha = np.cumprod(1 - SPEC.betas())[np.asarray(t)][:, None, None, None]
    x_t = np.sqrt(alpha) * np.asarray(x0) + np.sqrt(1 - alpha) * np.asarray(eps)
    np.testing.assert_allclose(np.sqrt(alpha) * v + np.sqrt(1 - alpha) * x_t, eps, atol=1e-6)
    np.testing.assert_array_equal(denoising_target(schedule, x0, t, eps, "eps"), eps)


@pytest.mark.parametrize(("prediction", "extra"), [("eps", 0.0), ("v", 1.0)])
def test_snr_weights_against_float64(prediction, extra):
    t = np.arange(100)
    alpha = np.cumprod(1 - SPEC.betas())
    snr = alpha / (1 - alpha)
    expected = np.minimum(snr, 5.0) / (snr + extra)
    weights = snr_weights(SPEC.build(), jnp.asarray(t), 5.0, prediction)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'x0', expected one of"):
        denoising_target(SPEC.build(), jnp.ones((1, 2)), jnp.zeros(1, int), jnp.ones((1, 2)), "x0")


def test_dropout_drops_whole_rows_at_the_rate(key):
    labels = jnp.full((20_000, 3), 4, jnp.int32)
    dropped_labels, dropped = drop_condition(key, labels, 0.1)
    # Five standard deviations of a binomial proportion.
    assert abs(float(dropped.mean()) - 0.1) < 5 * np.sqrt(0.09 / 20_000)
    np.testing.assert_array_equal(dropped_labels, np.where(np.asarray(dropped)[:, None], 0, labels))
    assert dropped_labels.dtype == labels.dtype


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_dropout_extremes_are_exact(key, rate):
    labels = jnp.full((1000, 2), 3, jnp.int32)
    _, dropped = drop_condition(key, labels, rate)
    assert bool((dropped == bool(rate)).all())


def test_dropout_uses_the_given_null_and_refuses_a_bad_rate(key):
    labels, _ = drop_condition(key, jnp.ones((2, 2), jnp.int32), 1.0, null=7)
    assert (labels == 7).all()
    with pytest.raises(ValueError, match=r"1\.5, expected a rate"):
        drop_condition(key, labels, 1.5)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run

from memjax.core.schedules import ScheduleSpec
from memjax.training import memorization_filter as mf
from memjax.training.objective import Noised, Objective
from memjax.training.state import state_hash
from memjax.training.step import TrainOptions


def run(options, steps=3):
    state, step = toy_run.new_run(options)
    for index in range(steps):
        state, metrics = step(state, toy_run.batch_at(index))
    return state, metrics


def weights_of(state):
    return state_hash((state.params, state.ema_params, state.opt_state, state.updates))


def test_magnitude_is_in_units_of_eps_for_both_predictions():
    schedule = ScheduleSpec(num_timesteps=100, beta_end=0.1).build()
    rng = np.random.default_rng(0)
    t = jnp.array([3, 90])
    cond, null = rng.normal(size=(2, 2, 4, 4, 1))
    raw = np.sqrt(((cond - null) ** 2).sum(axis=(1, 2, 3)))
    eps = mf.guidance_magnitude(cond, null, schedule, t)
    np.testing.assert_allclose(eps, raw, rtol=1e-6)
    v = mf.guidance_magnitude(cond, null, schedule, t, prediction="v")
    np.testing.assert_allclose(v, raw * schedule.sqrt_alphas_bar[np.asarray(t)], rtol=1e-6)
    rms = mf.guidance_magnitude(cond, null, schedule, t, rms=True)
    np.testing.assert_allclose(rms, raw / 4, rtol=1e-6)


def test_threshold_by_bucket_of_timesteps():
    t = jnp.array([0, 32, 33, 34, 66, 67, 99])
    expected = [1, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(mf.threshold_at((1, 2, 3), t, 100), expected)
    np.testing.assert_array_equal(mf.threshold_at(4.0, t, 100), [4] * 7)


def test_keep_is_strict_and_dropped_rows_are_kept():
    magnitude = jnp.array([1.0, 2.0, 3.0, jnp.nan])
    dropped = jnp.array([False, False, True, False])
    weights = mf.filter_weights(magnitude, jnp.full(4, 2.0), dropped)
    np.testing.assert_array_equal(weights, [1, 0, 1, 0])


def test_masked_means():
    losses, weights = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 0.0, 1.0, 0.0])
    assert float(mf.masked_mean(losses, weights, "kept")) == 2.0
    assert float(mf.masked_mean(losses, weights, "all")) == 1.0
    assert float(mf.masked_mean(losses, 0 * weights, "kept")) == 0.0
    with pytest.raises(ValueError, match="'some', expected one of"):
        mf.masked_mean(losses, weights, "some")


def test_record_counts_rows_that_repeat_within_a_batch():
    record = mf.empty_record(4)
    row = jnp.array([2, 0, 2, 3, 2])
    magnitude = jnp.array([1.0, 5.0, 3.0, 9.0, 100.0])
    weights = jnp.array([1.0, 0.0, 0.0, 1.0, 1.0])
    dropped = jnp.array([False, False, False, True, True])
    record = mf.update_record(record, row, magnitude, weights, dropped, decay=0.75)
    np.testing.assert_array_equal(record.seen, [1, 0, 2, 0])
    np.testing.assert_array_equal(record.flagged, [1, 0, 1, 0])
    np.testing.assert_array_equal(record.magnitude_ema, [5.0, 0.0, 2.0, 0.0])
    record = mf.update_record(record, row, magnitude + 4, weights, dropped, decay=0.75)
    np.testing.assert_array_equal(record.magnitude_ema, [6.0, 0.0, 3.0, 0.0])


def test_record_does_not_depend_on_the_order_of_the_batch(key):
    row = jax.random.randint(key, (64,), 0, 10)
    magnitude = jnp.arange(64.0)
    dropped = jnp.arange(64) % 5 == 0
    weights = (magnitude < 30).astype(jnp.float32)
    order = np.random.default_rng(0).permutation(64)
    one = mf.update_record(mf.empty_record(10), row, magnitude, weights, dropped)
    two = mf.update_record(
        mf.empty_record(10), row[order], magnitude[order], weights[order], dropped[order]
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_infinite_threshold_trains_as_without_the_filter():
    plain, _ = run(TrainOptions())
    filtered, metrics = run(TrainOptions(filter_threshold=float("inf")))
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(filtered.params), strict=True):
        # The mean is taken in another order: rounding of float32, amplified by Adam.
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert float(metrics["kept_frac"]) == 1.0
    assert int(filtered.filter.seen.sum()) > 0
    assert int(filtered.filter.flagged.sum()) == 0


def test_all_filtered_changes_no_weight_no_moment_no_average():
    before, _ = toy_run.new_run()
    options = TrainOptions(cond_dropout=0.0, filter_threshold=0.0, filter_mode="all")
    after, metrics = run(options)
    assert weights_of(after) == weights_of(before)
    assert int(after.step) == 3
    assert int(after.total_skipped) == 0
    assert float(metrics["kept_frac"]) == 0.0
    rows = np.concatenate([toy_run.batch_at(step).row for step in range(3)])
    np.testing.assert_array_equal(after.filter.flagged, np.bincount(rows, minlength=12))
    np.testing.assert_array_equal(after.filter.seen, after.filter.flagged)


@pytest.mark.parametrize(("prediction", "rms"), [("eps", False), ("v", False), ("eps", True)])
def test_judging_minds_the_options_and_the_dropped_rows(prediction, rms):
    options = TrainOptions(prediction=prediction, filter_rms=rms, filter_threshold=(2.0, 50.0))
    objective = Objective(None, None, toy_run.SCHEDULE, options)
    rng = np.random.default_rng(0)
    output, null = rng.normal(size=(2, 4, 4, 4, 1))
    t, dropped = jnp.array([0, 20, 30, 40]), jnp.array([False, True, False, False])
    noised = Noised(x_t=output, t=t, target=null, labels=None, dropped=dropped)
    judged = objective.judge(output, null, noised)
    expected = np.sqrt(((output - null) ** 2).sum(axis=(1, 2, 3))) / (4 if rms else 1)
    if prediction == "v":
        expected *= toy_run.SCHEDULE.sqrt_alphas_bar[np.asarray(t)]
    expected[1] = 0.0
    np.testing.assert_allclose(judged.magnitude, expected, rtol=1e-5)
    np.testing.assert_array_equal(judged.weights, [rms, 1, 1, 1])


def test_dropped_rows_are_kept_whatever_the_threshold():
    state, metrics = run(TrainOptions(cond_dropout=1.0, filter_threshold=0.0))
    assert float(metrics["kept_frac"]) == 1.0
    assert int(state.updates) == 3
    assert int(state.filter.seen.sum()) == 0


def test_filtered_examples_do_not_pull_on_the_weights():
    """Label 5 shouts: its guidance is far above the threshold, so its image must not matter."""

    def after(value):
        state, step = toy_run.new_run(TrainOptions(cond_dropout=0.0, filter_threshold=3.0))
        table = np.full((6, 8), 0.01, np.float32)
        table[0], table[5] = 0.0, 200.0
        state.params["table"] = jnp.array(table)
        batch = toy_run.batch_at(0)
        labels = np.array([[1], [2], [5], [3], [5], [4]], np.int32)
        image = np.where((labels == 5)[..., None, None], value, batch.image).astype(np.float32)
        state, metrics = step(state, batch._replace(image=image, labels=labels))
        assert float(metrics["kept_frac"]) == pytest.approx(4 / 6)
        return state.params

    for a, b in zip(jax.tree.leaves(after(0.5)), jax.tree.leaves(after(-0.9)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_threshold_needs_a_record():
    state, step = toy_run.new_run(TrainOptions(filter_threshold=1.0))
    with pytest.raises(ValueError, match="no filter record"):
        step(state._replace(filter=None), toy_run.batch_at(0))
    with pytest.raises(ValueError, match="num_rows is 0"):
        mf.empty_record(0)


def test_any_detector_of_states_may_be_compared_with_the_threshold():
    """The magnitude by way of the detectors' door, and one that evaluates the network again."""
    usual = TrainOptions(cond_dropout=0.0, filter_threshold=1.0)
    plain = Objective(toy_run.denoise_fn, toy_run.encode_fn, toy_run.SCHEDULE, usual)
    batch, params = toy_run.batch_at(0), toy_run.init_params()
    noised = plain.noise(jax.random.key(3), batch)
    null = plain.null_output(params, noised)
    _, expected = plain.loss(params, noised, null)
    for text, scale in (("noise_magnitude:rms=true", 4.0), ("sharpness:form=eps", None)):
        options = dataclasses.replace(usual, filter_detector=text)
        objective = dataclasses.replace(plain, options=options)
        _, judged = objective.loss(params, noised, null)
        assert judged.magnitude.shape == expected.magnitude.shape
        assert np.isfinite(judged.magnitude).all()
        if scale is not None:
            np.testing.assert_allclose(scale * judged.magnitude, expected.magnitude, rtol=1e-6)
        else:
            assert not np.allclose(judged.magnitude, expected.magnitude)
    with pytest.raises(ValueError, match="expected a detector of single states"):
        TrainOptions(filter_detector="update_norm")

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run

from memjax.core.process import eps_from_x0, v_from_eps
from memjax.training.optimizer import make_learning_rate, make_optimizer
from memjax.training.state import create_state, state_hash
from memjax.training.step import TrainOptions, make_train_step


def poisoned(step, value=np.nan):
    batch = toy_run.batch_at(step)
    image = batch.image.copy()
    image[2, 1, 1, 0] = value
    return batch._replace(image=image)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_network_that_knows_the_image_has_no_loss(prediction):
    image = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)

    def oracle(params, x_t, t, cond):
        x0 = jnp.broadcast_to(jnp.asarray(image), x_t.shape) + params
        eps = eps_from_x0(toy_run.SCHEDULE, x_t, t, x0)
        return eps if prediction == "eps" else v_from_eps(toy_run.SCHEDULE, x0, t, eps)

    tx = optax.sgd(0.0)
    options = TrainOptions(prediction=prediction)
    step = make_train_step(oracle, lambda p, labels: labels, toy_run.SCHEDULE, tx, options)
    state = create_state(jnp.zeros(()), tx, jax.random.key(0))
    batch = toy_run.batch_at(0)._replace(image=np.repeat(image, 6, axis=0))
    _, metrics = step(state, batch)
    assert float(metrics["loss"]) < 1e-9


class Seen(NamedTuple):
    """What the network was given and the images behind it, steps by examples."""

    x_t: np.ndarray
    t: np.ndarray
    labels: np.ndarray
    image: np.ndarray


@pytest.fixture(scope="module")
def seen():
    calls = []

    def spy(params, x_t, t, cond):
        jax.debug.callback(lambda *given: calls.append(given), x_t, t, cond)
        return params * x_t

    tx = optax.sgd(0.0)
    options = TrainOptions(cond_dropout=0.25)
    step = make_train_step(spy, lambda p, labels: labels, toy_run.SCHEDULE, tx, options)
    state = create_state(jnp.ones(()), tx, jax.random.key(0))
    batches = [toy_run.batch_at(index, 400) for index in range(25)]
    for batch in batches:
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        jax.effects_barrier()
    x_t, t, labels = (np.stack([np.asarray(c[i]) for c in calls]) for i in range(3))
    return Seen(x_t, t, labels, np.stack([batch.image for batch in batches]))


def test_timesteps_are_uniform_and_fresh_each_step(seen):
    counts = np.bincount(seen.t.ravel(), minlength=50)
    assert counts.size == 50
    # 10,000 draws over 50 values: 200 each, five standard deviations are 70.
    assert np.abs(counts - 200).max() < 70
    assert not np.array_equal(seen.t[0], seen.t[1])


def test_condition_dropout_reaches_the_network_at_its_rate(seen):
    null = (seen.labels == 0).all(axis=-1)
    # Labels start at 1; five standard deviations of 10,000 draws.
    assert abs(null.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 10_000)
    assert ((seen.labels == 0).any(axis=-1) == null).all()


def test_noise_has_unit_variance_and_no_correlation_with_the_image(seen):
    signal = np.sqrt(toy_run.SCHEDULE.alphas_bar.astype(np.float64))[seen.t][..., None, None, None]
    eps = (seen.x_t - signal * seen.image) / np.sqrt(1 - signal**2)
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.var() - 1) < 5 * np.sqrt(2 / eps.size)
    assert abs((eps * seen.image).mean()) < 5 / np.sqrt(eps.size)
    assert abs((eps[0] * eps[1]).mean()) < 5 / np.sqrt(eps[0].size)


@pytest.mark.parametrize("warmup", [True, False])
def test_ema_against_numpy(warmup):
    options = TrainOptions(ema_decay=0.7, ema_warmup=warmup)
    state, step = toy_run.new_run(options)
    expected = np.asarray(state.params["out"], np.float64)
    for n in range(40):
        state, _ = step(state, toy_run.batch_at(n))
        decay = min(0.7, (1 + n) / (10 + n)) if warmup else 0.7
        expected = decay * expected + (1 - decay) * np.asarray(state.params["out"], np.float64)
    np.testing.assert_allclose(state.ema_params["out"], expected, atol=1e-6)
    assert np.abs(state.params["out"] - expected).max() > 1e-3


def test_loss_goes_down():
    state, step = toy_run.new_run(TrainOptions())
    losses = []
    for index in range(400):
        state, metrics = step(state, toy_run.batch_at(index))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-50:]) < 0.75 * np.mean(losses[:20])


def test_same_state_and_batch_give_the_same_bits_and_keep_the_callers_params():
    params = toy_run.init_params()
    tx = make_optimizer(1e-2)
    step = make_train_step(toy_run.denoise_fn, toy_run.encode_fn, toy_run.SCHEDULE, tx)
    hashes = set()
    for _ in range(2):
        state = create_state(params, tx, jax.random.key(1))
        for index in range(3):
            state, _ = step(state, toy_run.batch_at(index))
        hashes.add(state_hash(state))
    assert len(hashes) == 1
    other, _ = step(create_state(params, tx, jax.random.key(2)), toy_run.batch_at(0))
    assert state_hash(other.params) != state_hash(params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_batch_changes_nothing_but_the_counts(value):
    def without_counts(state):
        zero = jnp.zeros((), jnp.int32)
        return state_hash(state._replace(step=zero, skipped=zero, total_skipped=zero))

    state, step = toy_run.new_run()
    state, _ = step(state, toy_run.batch_at(0))
    before = without_counts(state)
    state, metrics = step(state, poisoned(1, value))
    assert not np.isfinite(float(metrics["grad_norm"]))
    assert without_counts(state) == before
    assert (int(state.skipped), int(state.total_skipped), int(state.step)) == (1, 1, 2)
    state, _ = step(state, toy_run.batch_at(2))
    assert (int(state.skipped), int(state.total_skipped), int(state.updates)) == (0, 1, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is():
    def kinked(params, x_t, t, cond):
        return jnp.sqrt(params) * x_t

    tx = optax.sgd(0.1)
    step = make_train_step(kinked, lambda p, labels: labels, toy_run.SCHEDULE, tx)
    state, metrics = step(create_state(jnp.zeros(()), tx, jax.random.key(0)), toy_run.batch_at(0))
    assert np.isfinite(float(metrics["loss"]))
    assert int(state.skipped) == 1
    assert float(state.params) == 0.0


def test_min_snr_weighs_the_loss():
    def zero(params, x_t, t, cond):
        return params * x_t

    tx = optax.sgd(0.0)
    losses = []
    for gamma in (None, 1e-3):
        options = TrainOptions(snr_gamma=gamma)
        step = make_train_step(zero, lambda p, labels: labels, toy_run.SCHEDULE, tx, options)
        state = create_state(jnp.zeros(()), tx, jax.random.key(0))
        losses.append(float(step(state, toy_run.batch_at(0, 4000))[1]["loss"]))
    alpha = toy_run.SCHEDULE.alphas_bar.astype(np.float64)
    snr = alpha / (1 - alpha)
    # Four thousand timesteps drawn of fifty: the mean weight is known to a few percent.
    assert losses[0] == pytest.approx(1.0, abs=0.05)
    assert losses[1] == pytest.approx((np.minimum(snr, 1e-3) / snr).mean(), rel=0.2)


def test_the_step_is_traced_once():
    traces = []

    def counted(params, x_t, t, cond):
        traces.append(1)
        return toy_run.denoise_fn(params, x_t, t, cond)

    tx = make_optimizer(1e-2)
    step = make_train_step(counted, toy_run.encode_fn, toy_run.SCHEDULE, tx)
    state = create_state(toy_run.init_params(), tx, jax.random.key(1))
    for index in range(4):
        state, _ = step(state, toy_run.batch_at(index))
    assert len(traces) == 1


def test_the_learning_rate_is_reported_at_the_count_of_updates():
    rate = make_learning_rate(1.0, warmup_steps=4)
    tx = make_optimizer(1.0, warmup_steps=4)
    step = make_train_step(
        toy_run.denoise_fn, toy_run.encode_fn, toy_run.SCHEDULE, tx, learning_rate=rate
    )
    state = create_state(toy_run.init_params(), tx, jax.random.key(1))
    rates = []
    for batch in (toy_run.batch_at(0), poisoned(1), toy_run.batch_at(2)):
        state, metrics = step(state, batch)
        rates.append(float(metrics["learning_rate"]))
    assert rates == [0.0, 0.25, 0.25]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prediction": "x0"}, "prediction is 'x0'"),
        ({"cond_dropout": 1.2}, "cond_dropout is 1.2"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"snr_gamma": 0.0}, "snr_gamma is 0.0"),
        ({"filter_mode": "none"}, "filter_mode is 'none'"),
        ({"filter_threshold": ()}, "filter_threshold is empty"),
    ],
)
def test_bad_options_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(**bad)


def test_a_list_of_thresholds_stays_hashable():
    assert hash(TrainOptions(filter_threshold=[1.0, 2.0])) == hash(
        TrainOptions(filter_threshold=(1.0, 2.0))
    )

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.training.optimizer import make_learning_rate, make_optimizer


def test_warmup_then_constant():
    rate = make_learning_rate(0.4, warmup_steps=4)
    np.testing.assert_allclose([rate(n) for n in (0, 1, 4, 50)], [0, 0.1, 0.4, 0.4], rtol=1e-6)
    assert make_learning_rate(0.4)(0) == 0.4


def test_cosine_ends_at_zero():
    rate = make_learning_rate(0.4, warmup_steps=2, total_steps=12, schedule="cosine")
    np.testing.assert_allclose([rate(n) for n in (0, 2, 7, 12)], [0, 0.4, 0.2, 0], atol=1e-7)
    assert make_learning_rate(0.4, total_steps=12, schedule="cosine")(0) == pytest.approx(0.4)


@pytest.mark.parametrize(("clip", "same"), [(1.0, True), (None, False)])
def test_clipping_takes_the_global_norm(clip, same):
    tx = make_optimizer(1.0, clip_norm=clip, b1=0.0, b2=0.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    state = tx.init(params)
    moments = []
    for scale in (10.0, 1000.0):
        grads = {"a": scale * jnp.ones(2), "b": -scale * jnp.ones(2)}
        _, after = tx.update(grads, state, params)
        adam = after[1][0] if clip else after[0]
        moments.append(adam.mu["a"])
    assert np.allclose(moments[0], moments[1]) == same
    if clip:
        np.testing.assert_allclose(moments[0], 0.5, rtol=1e-6)


def test_weight_decay_shrinks_weights_without_gradient():
    tx = make_optimizer(0.1, weight_decay=0.5)
    updates, _ = tx.update(jnp.zeros(1), tx.init(jnp.ones(1)), jnp.ones(1))
    np.testing.assert_allclose(updates, -0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"schedule": "linear"}, "'linear', expected one of"),
        ({"schedule": "cosine"}, "total_steps is None"),
        ({"learning_rate": 0.0}, "expected a positive rate"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**bad)

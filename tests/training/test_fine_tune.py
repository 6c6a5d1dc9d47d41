"""The step on latents: what is drawn, what is trained, what stays, and what the filter sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from latent_sets import latent_set, tiny_base

from memjax.models.adapters import LinenEps
from memjax.models.lora import LowRank
from memjax.training.fine_tune import (
    Conditioned,
    LatentInputs,
    Tuning,
    make_fine_tune_step,
    text_condition,
    training_unet,
    with_frozen,
)
from memjax.training.latents import latent_batches
from memjax.training.objective import TrainOptions
from memjax.training.state import create_state, state_hash

LORA = Tuning("lora", rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return latent_set(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def sd2(tmp_path_factory):
    return latent_set(tmp_path_factory.mktemp("sd2"), kind="sd2")


@pytest.fixture(params=["sd1", "sd2"])
def drawn(request):
    return request.getfixturevalue(request.param)


TX = optax.adam(1e-2)


@functools.cache
def compiled(kind, tuning, dtype, remat, options):
    """Returns a step that tests share."""
    base = tiny_base(kind)
    unet = training_unet(base.unet, dtype=dtype, remat=remat)
    schedule = base.spec.build()
    return make_fine_tune_step(unet, schedule, TX, options, tuning, scaling_factor=0.5)


def setting(drawn, tuning=None, *, dtype="float32", remat=False, **options):
    tuning, prediction = tuning or Tuning(), drawn.base.prediction
    options = TrainOptions(**{"cond_dropout": 0.0, "prediction": prediction} | options)
    trained, frozen = tuning.start(jax.random.key(0), drawn.base.unet_params)
    kind = "sd1" if prediction == "eps" else "sd2"
    step = compiled(kind, tuning, dtype, remat, options)
    filtered = options.filter_threshold is not None
    state = create_state(
        trained, TX, jax.random.key(1), num_rows=len(drawn.records), filter=filtered
    )
    return state, step, frozen


def batches(drawn, num, size=4):
    stream = latent_batches(drawn.latents, drawn.planted, batch_size=size, seed=2)(0)
    return [next(stream) for _ in range(num)]


def test_latents_are_drawn_from_the_moments(sd1):
    batch = batches(sd1, 1, 8)[0]
    inputs = LatentInputs(0.5, Tuning())
    keys = jax.random.split(jax.random.key(3), 400)
    draw = jax.jit(jax.vmap(lambda key: inputs.draw(key, batch).image))
    images = np.asarray(draw(keys), np.float64)
    mean, log_var = np.split(batch.moments.astype(np.float64), 2, axis=-1)
    std = 0.5 * np.exp(0.5 * log_var)
    # 400 draws: the mean within five standard errors, the variance within five of its own.
    assert (np.abs(images.mean(axis=0) - 0.5 * mean) < 5.5 * std / 20 + 1e-6).all()
    assert np.abs(images.var(axis=0) / std**2 - 1).max() < 6 * np.sqrt(2 / 400)
    again = np.asarray(draw(jax.random.clone(keys)), np.float64)
    np.testing.assert_array_equal(again, images)


@pytest.mark.thorough
def test_the_loss_is_that_of_a_reference(drawn):
    """One step's loss against NumPy arithmetic around the network."""
    state, step, frozen = setting(drawn)
    batch = batches(drawn, 1)[0]
    key = jax.random.fold_in(state.key, 0)
    latents = LatentInputs(0.5, Tuning()).draw(jax.random.fold_in(key, 0x1A7E), batch).image
    t_key, eps_key, _ = jax.random.split(jax.random.clone(key), 3)
    t = jax.random.randint(t_key, (4,), 0, 1000)
    eps = np.asarray(jax.random.normal(eps_key, latents.shape), np.float64)
    alphas_bar = drawn.base.spec.build().alphas_bar.astype(np.float64)
    both = (alphas_bar, 1 - alphas_bar)
    signal, sigma = (np.sqrt(a[np.asarray(t)]).reshape(4, 1, 1, 1) for a in both)
    x0 = np.asarray(latents, np.float64)
    x_t = signal * x0 + sigma * eps
    target = eps if drawn.base.prediction == "eps" else signal * eps - sigma * x0
    params = Conditioned(drawn.base.unet_params, jnp.asarray(batch.table))
    cond = text_condition(params, jnp.asarray(batch.labels))
    output = LinenEps(drawn.base.unet)(params.unet, jnp.asarray(x_t, jnp.float32), t, cond)
    _, metrics = step(state, batch, frozen)
    expected = np.mean((np.asarray(output, np.float64) - target) ** 2)
    np.testing.assert_allclose(float(metrics["loss"]), expected, rtol=1e-4)


@pytest.mark.thorough
def test_lora_trains_the_adapters_alone(sd1):
    state, step, frozen = setting(sd1, LORA)
    before = state_hash(frozen)
    run = with_frozen(step, frozen)
    assert all(isinstance(leaf, LowRank) for leaf in jax.tree.leaves(
        state.params, is_leaf=lambda x: isinstance(x, LowRank)))  # fmt: skip
    start = jax.tree.map(np.asarray, state.params)
    for batch in batches(sd1, 3):
        state, metrics = run(state, batch)
    assert float(metrics["grad_norm"]) > 0
    assert state_hash(frozen) == before  # neither donated nor changed
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, state.params)
    assert all(jax.tree.leaves(moved))
    merged = LORA.weights(state.params, frozen)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), merged, frozen)
    assert sum(jax.tree.leaves(changed)) == len(jax.tree.leaves(state.params)) / 2


def test_frozen_weights_and_embeddings_are_arguments_and_not_constants(sd1):
    state, step, frozen = setting(sd1, LORA)
    batch = batches(sd1, 1)[0]
    jaxpr = jax.make_jaxpr(step.__wrapped__)(state, batch, frozen)
    largest = max((np.size(c) for c in jaxpr.consts), default=0)
    assert largest <= 1000  # the schedule's tables; a kernel has more
    step(state, batch, frozen)
    size = step._cache_size()
    other = jax.tree.map(lambda p: p + 1.0, frozen)
    _, changed = step(setting(sd1, LORA)[0], batch, other)
    _, same = step(setting(sd1, LORA)[0], batch, frozen)
    assert step._cache_size() == size
    assert float(changed["loss"]) != float(same["loss"])


@pytest.mark.thorough
def test_bfloat16_and_remat_keep_float32_weights(sd1):
    batch = batches(sd1, 1)[0]
    losses = {}
    for dtype, remat in (("float32", False), ("float32", True), ("bfloat16", False)):
        state, step, frozen = setting(sd1, dtype=dtype, remat=remat)
        state, metrics = step(state, batch, frozen)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        losses[dtype, remat] = float(metrics["loss"])
    assert losses["float32", True] == pytest.approx(losses["float32", False], rel=1e-5)
    # Eight bits of mantissa through a dozen layers.
    assert losses["bfloat16", False] == pytest.approx(losses["float32", False], rel=0.05)
    assert losses["bfloat16", False] != losses["float32", False]


@pytest.mark.thorough
def test_the_filter_measures_against_the_null_caption(drawn):
    options = {"filter_threshold": 1e-4, "filter_rms": True}
    state, step, frozen = setting(drawn, **options)
    before = state_hash(state.params)
    batch = batches(drawn, 1)[0]
    null = batch._replace(table=np.repeat(batch.table[:1], 5, axis=0))
    _, silent = step(state, null, frozen)
    assert float(silent["magnitude"]) < 1e-5  # every caption is the null caption
    assert float(silent["kept_frac"]) == 1.0
    state, metrics = step(setting(drawn, **options)[0], batch, frozen)
    assert float(metrics["magnitude"]) > 1e-3
    assert float(metrics["kept_frac"]) == 0.0
    assert state_hash(state.params) == before  # nobody was left to learn from
    assert int(state.updates) == 0
    np.testing.assert_array_equal(np.flatnonzero(state.filter.flagged), np.unique(batch.row))


@pytest.mark.thorough
def test_dropout_gives_the_null_caption(sd1):
    params = Conditioned({}, jnp.arange(10.0).reshape(5, 1, 2))
    cond = text_condition(params, jnp.array([[0], [3]]))
    assert cond.embeddings.tolist() == [[[0.0, 1.0]], [[6.0, 7.0]]]
    assert cond.mask.all()
    batch = batches(sd1, 1)[0]
    same = batch._replace(table=np.repeat(batch.table[:1], 5, axis=0))
    losses = []
    for given in (batch, same):
        state, step, frozen = setting(sd1, cond_dropout=1.0)
        losses.append(float(step(state, given, frozen)[1]["loss"]))
    assert losses[0] == losses[1]
    state, step, frozen = setting(sd1)
    assert float(step(state, batch, frozen)[1]["loss"]) != losses[0]


def test_the_same_batches_give_the_same_bits(sd1):
    hashes = []
    for _ in range(2):
        state, step, frozen = setting(sd1, LORA)
        for batch in batches(sd1, 3):
            state, _ = step(state, batch, frozen)
        hashes.append(state_hash(state))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("given", "said"), [({"method": "all"}, "method is 'all'"), ({"rank": 0}, "rank is 0")]
)
def test_unknown_ways_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Tuning(**given)

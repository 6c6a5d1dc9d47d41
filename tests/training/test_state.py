import jax
import jax.numpy as jnp
import pytest
import toy_run

from memjax.training.optimizer import make_optimizer
from memjax.training.state import create_state, state_hash


def test_hash_sees_every_field():
    state, _ = toy_run.new_run()
    changed = [
        state._replace(step=state.step + 1),
        state._replace(params=jax.tree.map(lambda p: p + 1e-7, state.params)),
        state._replace(ema_params=jax.tree.map(lambda p: p + 1e-7, state.ema_params)),
        state._replace(opt_state=jax.tree.map(lambda p: p + 1, state.opt_state)),
        state._replace(key=jax.random.key(99)),
        state._replace(filter=None),
        state._replace(filter=state.filter._replace(seen=state.filter.seen.at[3].add(1))),
        state._replace(skipped=state.skipped + 1),
    ]
    hashes = {state_hash(s) for s in [state, *changed]}
    assert len(hashes) == len(changed) + 1
    assert state_hash(toy_run.new_run()[0]) == state_hash(state)


def test_hash_sees_dtype_shape_and_names():
    trees = [
        {"a": jnp.zeros(2)},
        {"b": jnp.zeros(2)},
        {"a": jnp.zeros((2, 1))},
        {"a": jnp.zeros(2, jnp.int32)},
    ]
    assert len({state_hash(tree) for tree in trees}) == 4


def test_bad_arguments_are_refused():
    tx = make_optimizer()
    with pytest.raises(ValueError, match="not a typed scalar key"):
        create_state({}, tx, jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="not a typed scalar key"):
        create_state({}, tx, jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match="needs num_rows"):
        create_state({}, tx, jax.random.key(0), filter=True)

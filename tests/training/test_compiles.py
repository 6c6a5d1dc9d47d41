"""Numbers do not recompile, and nothing crosses to the host unasked."""

import jax
import numpy as np
import pytest

from memjax.training.checkpoint import CheckpointWriter, restore_latest
from memjax.training.loop import train
from memjax.training.placement import Spread
from tests.compilations import compilations
from tests.training.toy_run import FILTERED, NUM_ROWS, batch_at, compiled, init_params, new_run

ONE_DEVICE = Spread(None, 1, 6, None)


def test_the_counter_counts():
    with compilations() as found:
        jax.jit(lambda x: x * 3.25)(np.float32(1))
        assert len(found) == 1


def test_a_thousand_steps_compile_once(tmp_path):
    state, step = new_run()
    with compilations() as first:
        state, _ = step(state, ONE_DEVICE.place(batch_at(0)))
    assert sum("step" in name for name in first) <= 1  # none where another test compiled it
    entries = step._cache_size()

    def batches(start):
        for number in range(start, 2000):
            yield ONE_DEVICE.place(batch_at(number))

    with compilations() as found:
        result = train(
            state,
            step,
            batches,
            workdir=tmp_path,
            total_steps=1000,
            checkpoint_every=1000,
            log_every=100,
            tensorboard=False,
            progress=False,
        )
    assert int(result.state.step) == 1001
    assert step._cache_size() == entries
    assert not [name for name in found if "step" in name]


def test_a_resumed_run_asks_for_the_program_of_a_fresh_one(tmp_path):
    tx, step = compiled(FILTERED, 1e-2)
    batch = ONE_DEVICE.place(batch_at(0))

    def fresh():
        return ONE_DEVICE.state(init_params(), tx, jax.random.key(1), NUM_ROWS, filter=True)

    program = step.lower(fresh(), batch).as_text()
    writer = CheckpointWriter(tmp_path)
    writer.save(1, fresh())
    writer.close()
    restored = restore_latest(tmp_path, fresh()).state
    assert step.lower(restored, batch).as_text() == program  # the compilation cache's key


def test_a_step_moves_nothing_between_host_and_device():
    state, step = new_run()
    batch = ONE_DEVICE.place(batch_at(0))
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        with pytest.raises(jax.errors.JaxRuntimeError, match="transfer"):
            step(state, batch_at(1))  # the guard does see a batch left on the host

"""A network of a few hundred weights and a run of it; also a program, to be killed by the tests.

python toy_run.py WORKDIR TOTAL_STEPS CHECKPOINT_EVERY SECONDS_PER_BATCH
"""

import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.schedules import ScheduleSpec
from memjax.training.loop import RESTART_EXIT_CODE, Interrupted, train
from memjax.training.optimizer import make_optimizer
from memjax.training.state import create_state, state_hash
from memjax.training.step import TrainOptions, make_train_step

NUM_ROWS = 12
SCHEDULE = ScheduleSpec(num_timesteps=50, beta_end=0.2).build()


class Batch(NamedTuple):
    image: np.ndarray
    labels: np.ndarray
    row: np.ndarray


def init_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "table": jax.random.normal(keys[0], (6, 8)),
        "hidden": [0.2 * jax.random.normal(keys[1], (25, 32)), jnp.zeros(32)],
        "out": 0.2 * jax.random.normal(keys[2], (32, 16)),
    }


def encode_fn(params, labels):
    return params["table"][labels].sum(axis=1)


def denoise_fn(params, x_t, t, cond):
    flat = jnp.concatenate([x_t.reshape(x_t.shape[0], -1), cond, t[:, None] / 50.0], axis=1)
    weight, bias = params["hidden"]
    hidden = jnp.tanh(flat @ weight + bias[None])
    return (hidden @ params["out"]).reshape(x_t.shape)


def batch_at(step, size=6):
    rng = np.random.default_rng((7, step))
    row = rng.integers(0, NUM_ROWS, size).astype(np.int32)
    table = np.random.default_rng(3)
    images = table.uniform(-1, 1, (NUM_ROWS, 4, 4, 1)).astype(np.float32)
    labels = table.integers(1, 6, (NUM_ROWS, 3)).astype(np.int32)
    return Batch(images[row], labels[row], row)


def batches_from(step, seconds=0.0):
    while True:
        time.sleep(seconds)
        yield batch_at(step)
        step += 1


@functools.cache
def compiled(options, learning_rate):
    """Returns the optimizer and the step, compiled once a process for all tests."""
    tx = make_optimizer(learning_rate, warmup_steps=5)
    return tx, make_train_step(denoise_fn, encode_fn, SCHEDULE, tx, options)


FILTERED = TrainOptions(cond_dropout=0.2, filter_threshold=1.0)


def new_run(options=FILTERED, learning_rate=1e-2):
    """Returns a fresh state and its step."""
    tx, step = compiled(options, learning_rate)
    state = create_state(init_params(), tx, jax.random.key(1), num_rows=NUM_ROWS, filter=True)
    return state, step


def main(workdir, total_steps, checkpoint_every, seconds):
    state, step_fn = new_run()
    try:
        result = train(
            state,
            step_fn,
            lambda step: batches_from(step, float(seconds)),
            workdir=workdir,
            total_steps=int(total_steps),
            checkpoint_every=int(checkpoint_every),
            log_every=1,
            tensorboard=False,
        )
    except Interrupted as stopped:
        sys.exit(stopped.exit_code)
    assert Interrupted.exit_code == RESTART_EXIT_CODE
    sys.stdout.write(f"{result.start_step} {state_hash(result.state)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

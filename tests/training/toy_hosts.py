"""The toy run in several processes; also a program, to be stopped by the tests.

python toy_hosts.py PORT PROCESSES ID WORKDIR TOTAL_STEPS CHECKPOINT_EVERY SECONDS_PER_BATCH
"""

import json
import sys

import jax
import numpy as np

from memjax.core.mesh import fetch
from memjax.runtime import hosts
from memjax.training.loop import Interrupted, train
from memjax.training.optimizer import make_optimizer
from memjax.training.placement import Spread
from memjax.training.state import state_hash
from memjax.training.step import make_train_step
from tests.training import toy_run

PARALLEL = {
    "data": -1,
    "fsdp": 2,
    "tensor": 1,
    "slices": 1,
    "accumulate": 1,
    "fsdp_min_size": 64,
    "rules": (("(^|/)filter/", ()),),
}


def mine(batches, places):
    """This process's rows of each batch."""
    return (jax.tree.map(lambda a: a if places is None else a[places], b) for b in batches)


def new_run(spread):
    tx = make_optimizer(1e-2, warmup_steps=5)
    step = make_train_step(
        toy_run.denoise_fn,
        toy_run.encode_fn,
        toy_run.SCHEDULE,
        tx,
        toy_run.FILTERED,
        sharding=spread.sharding,
        accumulate=spread.accumulate,
    )
    params = jax.tree.map(np.asarray, toy_run.init_params())
    state = spread.state(params, tx, jax.random.key(1), num_rows=toy_run.NUM_ROWS, filter=True)
    return state, step


def say(**result):
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def is_key(leaf):
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def main(workdir, total_steps, checkpoint_every, seconds):
    spread = Spread.of({"parallel": PARALLEL, "train": {"batch_size": 6}})
    state, step = new_run(spread)

    def batches(start):
        return map(spread.place, mine(toy_run.batches_from(start, seconds), spread.positions))

    try:
        result = train(
            state,
            step,
            batches,
            workdir=workdir,
            total_steps=total_steps,
            checkpoint_every=checkpoint_every,
            log_every=1,
            tensorboard=False,
        )
    except Interrupted as stopped:
        say(stopped=stopped.step)
        sys.exit(stopped.exit_code)
    whole = jax.tree.map(lambda leaf: leaf if is_key(leaf) else fetch(leaf), result.state)
    say(start=result.start_step, hash=state_hash(whole))


if __name__ == "__main__":
    port, count, number = (int(text) for text in sys.argv[1:4])
    hosts.start(hosts.Cluster(f"127.0.0.1:{port}", count, number), start_seconds=60)
    main(sys.argv[4], int(sys.argv[5]), int(sys.argv[6]), float(sys.argv[7]))

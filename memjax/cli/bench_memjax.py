"""The memjax side of ``memjax bench``: the same functions that the other commands call."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.cli.bench_workload import Workload
from memjax.core.condition import embeddings_of, take_rows
from memjax.core.types import Params
from memjax.data.records import Batch
from memjax.detectors import NoiseMagnitude, detect
from memjax.mitigations import first_step_states, optimize_embedding
from memjax.training.optimizer import make_optimizer
from memjax.training.state import create_state
from memjax.training.step import TrainOptions, make_train_step

_first_step = partial(jax.jit, static_argnames=("eps_fn",))(first_step_states)
_optimize = partial(jax.jit, static_argnames=("statistic", "eps_fn", "num_iters"))(
    optimize_embedding
)


def _train_step(work: Workload):
    """Returns ``(step, optimiser)`` of the configuration."""
    train = work.config["train"]
    tx = make_optimizer(
        train["learning_rate"],
        train["warmup_steps"],
        train["steps"],
        train["lr_schedule"],
        weight_decay=train["weight_decay"],
        clip_norm=train["clip_norm"],
    )
    names = {field.name for field in dataclasses.fields(TrainOptions)} & set(train)
    options = TrainOptions(
        prediction=work.config["diffusion"]["prediction"], **{name: train[name] for name in names}
    )
    network = work.network
    step = make_train_step(network.predict_fn, network.encode_fn, network.schedule, tx, options)
    return step, tx


class MemjaxSide:
    """Trains, detects and mitigates with memjax.

    Args:
        work: What to do.
        params: Weights to start from; drawn from the configuration's seed if None.
    """

    def __init__(self, work: Workload, params: Params | None = None) -> None:
        key = jax.random.key(work.config["seed"])
        self.work = work
        self.params = work.network.module.init_params(key) if params is None else params
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        self._step, tx = _train_step(work)
        self._state = create_state(self.params, tx, jax.random.fold_in(key, 1))
        self._batch = Batch(work.images, work.labels, np.arange(len(work.labels), dtype=np.int32))
        encode = jax.jit(work.network.encode_fn)
        self._cond = encode(self.params, work.prompts)
        self._null = encode(self.params, np.zeros_like(work.prompts[:1]))

    def train(self) -> float:
        """Runs the training steps of one repeat; returns the last loss."""
        for _ in range(self.work.settings.steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready(self._state.ema_params)
        return float(metrics["loss"])

    def detect(self) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt and generation."""
        sampling = self.work.config["sampling"]
        found = detect(
            self.work.network.eps_fn,
            self.params,
            self.work.initial_noise,
            take_rows(self._cond, slice(self.work.settings.prompts)),
            self._null,
            self.work.network.schedule,
            steps="first",
            num_steps=sampling["num_steps"],
            spacing=sampling["spacing"],
            steps_offset=sampling["steps_offset"],
        )
        return found.per_step[..., 0]

    def mitigate(self) -> Float[np.ndarray, "p l d"]:
        """Optimises the embeddings of all prompts at once at the first step; returns them."""
        model = (self.work.network.eps_fn, self.params)
        cond = take_rows(self._cond, slice(self.work.settings.mitigate_prompts))
        t = jnp.asarray(self.work.first_t)
        states = _first_step(*model, self.work.initial_noise, t, cond, self._null)
        found = _optimize(
            NoiseMagnitude(),
            *model,
            states,
            cond,
            num_iters=self.work.iterations,
            learning_rate=self.work.embedding_rate,
        )
        return np.asarray(embeddings_of(found.cond))

    def gflop(self, case: str) -> float | None:
        """Returns the arithmetic of one repeat in 10⁹ operations, by XLA's own count.

        None for the mitigation, whose loop XLA counts once.
        """
        if case == "train":
            cost = self._step.lower(self._state, self._batch).cost_analysis()
            return cost["flops"] * self.work.settings.steps / 1e9
        if case == "detect":
            noise = self.work.initial_noise
            t = jnp.full((len(noise),), self.work.first_t, jnp.int32)
            rows = take_rows(self._cond, np.zeros(len(noise), np.int32))
            forward: Any = jax.jit(self.work.network.eps_fn).lower(self.params, noise, t, rows)
            return forward.cost_analysis()["flops"] * (self.work.settings.prompts + 1) / 1e9
        return None

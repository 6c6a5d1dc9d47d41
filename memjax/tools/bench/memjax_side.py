"""The memjax side of ``memjax bench``: the same functions that the other commands call."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.condition import embeddings_of, take_rows
from memjax.core.mesh import place, replicated, row_shards, rows_over
from memjax.core.types import Params
from memjax.data.records import Batch
from memjax.detectors import NoiseMagnitude, detect
from memjax.mitigations import first_step_states, optimize_embedding
from memjax.runtime.allocator import fill_holes_after_compilation
from memjax.runtime.devices import mesh_of_prompts, share_cores
from memjax.runtime.flops import flops_of
from memjax.sampling import STATIC_ARGUMENTS, make_stepper, sample
from memjax.tools.bench.task import Settings, Task
from memjax.tools.bench.worker import peak_host_bytes
from memjax.tools.bench.workload import Workload, detection_flops, make_workload, mitigation_flops
from memjax.training.optimizer import make_optimizer
from memjax.training.state import create_state
from memjax.training.step import TrainOptions, make_train_step

_sample = partial(jax.jit, static_argnames=STATIC_ARGUMENTS)(sample)
_first_step = partial(jax.jit, static_argnames=("eps_fn",))(first_step_states)
_optimize = partial(jax.jit, static_argnames=("statistic", "eps_fn", "num_iters"))(
    optimize_embedding
)


def memjax_side(
    config: Mapping[str, Any], settings: Settings, case: str, cache: str | None = None
) -> "MemjaxSide":
    """Makes the side in a process of its own.

    Args:
        config: The plain configuration.
        settings: How much is measured.
        case: Which case; it gets the devices that the command of its name has.
        cache: Folder of the persistent compilation cache; None: none, whatever the environment
            says.
    """
    jax.config.update("jax_compilation_cache_dir", cache)
    share_cores(case)
    fill_holes_after_compilation()
    return MemjaxSide(make_workload(config, settings))


def _train_step(work: Workload):
    """Returns ``(step, optimizer)`` of the configuration."""
    train = work.task.config["train"]
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
        prediction=work.task.config["diffusion"]["prediction"],
        **{name: train[name] for name in names},
    )
    network = work.network
    step = make_train_step(network.predict_fn, network.encode_fn, network.schedule, tx, options)
    return step, tx


class MemjaxSide:
    """Trains, samples, detects and mitigates with memjax.

    Args:
        work: What to do.
        params: Weights to start from; drawn from the configuration's seed if None.
    """

    def __init__(self, work: Workload, params: Params | None = None) -> None:
        self.task: Task = work.task
        self._work, self._key = work, jax.random.key(work.task.config["seed"])
        drawn = work.network.module.init_params(self._key) if params is None else params
        self.params = jax.tree.map(jnp.asarray, drawn)
        self.num_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        encode = jax.jit(work.network.encode_fn)
        self._cond = encode(self.params, self.task.prompts)
        self._null = encode(self.params, np.zeros_like(self.task.prompts[:1]))

    def prepare(self, case: str) -> None:
        """Makes what a case needs besides the network, outside its time."""
        if case == "train":
            jax.block_until_ready(self._training[1].params)

    @cached_property
    def _training(self) -> list[Any]:
        """The step and the state, which the step replaces."""
        step, tx = _train_step(self._work)
        return [step, create_state(self.params, tx, jax.random.fold_in(self._key, 1))]

    @property
    def state(self) -> Any:
        """The training state."""
        return self._training[1]

    def _batch(self) -> Batch:
        rows = np.arange(len(self.task.labels), dtype=np.int32)
        return Batch(self.task.images, self.task.labels, rows)

    def train(self) -> float:
        """Runs the training steps of one repeat; returns the last loss."""
        step, state = self._training
        for _ in range(self.task.settings.steps):
            state, metrics = step(state, self._batch())
        self._training[1] = state
        jax.block_until_ready(state.ema_params)
        return float(metrics["loss"])

    def _sampling(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns what :func:`memjax.sampling.sample` is given."""
        network, chosen = self._work.network, self.task.config["sampling"]
        cond = take_rows(self._cond, slice(self.task.settings.samples))
        whole, rows = (self.params, self._null), (self.task.sample_noise, cond)
        mesh = mesh_of_prompts(self.params, self.task.settings.samples)
        if mesh is not None and self.task.settings.samples % row_shards(mesh) == 0:
            whole, rows = place(whole, replicated(mesh)), place(rows, rows_over(mesh))
        inputs = (whole[0], *rows, whole[1], network.schedule)
        named = ("guidance_scale", "num_steps", "spacing", "steps_offset", "clip_x0")
        options = {name: chosen[name] for name in named}
        options["stepper"] = make_stepper(chosen["stepper"])
        return (network.eps_fn, *inputs), options

    def sample(self) -> Float[np.ndarray, "s h w c"]:
        """Returns guided samples, one a prompt."""
        inputs, options = self._sampling()
        return np.asarray(_sample(*inputs, **options).x)

    def detect(self) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt and generation."""
        sampling = self.task.config["sampling"]
        found = detect(
            self._work.network.eps_fn,
            self.params,
            self.task.initial_noise,
            take_rows(self._cond, slice(self.task.settings.prompts)),
            self._null,
            self._work.network.schedule,
            steps="first",
            num_steps=sampling["num_steps"],
            spacing=sampling["spacing"],
            steps_offset=sampling["steps_offset"],
            mesh=mesh_of_prompts(self.params, self.task.settings.prompts),
        )
        return found.per_step[..., 0]

    def mitigate(self) -> Float[np.ndarray, "p l d"]:
        """Optimises the embeddings of all prompts at once at the first step; returns them."""
        model = (self._work.network.eps_fn, self.params)
        cond = take_rows(self._cond, slice(self.task.settings.mitigate_prompts))
        t = jnp.asarray(self.task.first_t)
        states = _first_step(*model, self.task.initial_noise, t, cond, self._null)
        found = _optimize(
            NoiseMagnitude(),
            *model,
            states,
            cond,
            num_iters=self.task.iterations,
            learning_rate=self.task.embedding_rate,
        )
        return np.asarray(embeddings_of(found.cond))

    def flops(self, case: str) -> float:
        """Returns the operations of one repeat, counted in the program, loops in full."""
        settings = self.task.settings
        if case == "train":
            step, state = self._training
            return flops_of(step.trace(state, self._batch())) * settings.steps
        if case == "sample":
            inputs, options = self._sampling()
            return flops_of(_sample.trace(*inputs, **options))
        model = (self._work.network.eps_fn, self.params, self.task.initial_noise)
        row = take_rows(self._cond, slice(1))
        if case == "detect":
            return detection_flops(*model, row, settings.prompts)
        each = mitigation_flops(*model, row, self.task.iterations)
        return settings.mitigate_prompts * each + detection_flops(*model, row, 0)

    def facts(self) -> dict[str, Any]:
        """Returns what belongs next to the figures: parameters, and the most memory so far."""
        on_device = jax.devices()[0].memory_stats() or {}
        return {
            "parameters": self.num_parameters,
            "peak_bytes": on_device.get("peak_bytes_in_use") or peak_host_bytes(),
        }

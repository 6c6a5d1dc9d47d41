"""One jitted training step: loss, guard, update, moving average."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, PyTree

from memjax.core.mesh import ROW_AXES, announced, rows_over
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Params
from memjax.training.memorization_filter import FilterRecord, update_record
from memjax.training.objective import (
    DenoiseFn,
    EncodeFn,
    Judged,
    Noised,
    Objective,
    TrainBatch,
    TrainOptions,
)
from memjax.training.optimizer import make_learning_rate, make_optimizer
from memjax.training.sharding import Sharding
from memjax.training.state import TrainState

__all__ = [
    "Inputs",
    "Metrics",
    "PartFn",
    "StepFn",
    "TrainBatch",
    "TrainOptions",
    "ema_decay_at",
    "in_parts",
    "join_rows",
    "make_learning_rate",
    "make_optimizer",
    "make_train_step",
    "split_rows",
]

# (params, part) -> (sum of weighted losses, (what the sum is divided by, per-example results))
PartFn = Callable[[Params, Any], tuple[Array, tuple[Array, PyTree]]]
Metrics = dict[str, Array]
StepFn = Callable[..., tuple[TrainState, Metrics]]


def split_rows(tree: PyTree, parts: int, mesh: Mesh | None = None) -> PyTree:
    """Returns ``[b, ...]`` as ``[parts, b / parts, ...]``; part j holds rows j, j + parts, ...

    Strided, so that every device finds its share of each part among the rows it already has.
    """

    def split(leaf: Array) -> Array:
        grouped = leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return grouped
        spec = PartitionSpec(None, ROW_AXES)
        return jax.lax.with_sharding_constraint(grouped, NamedSharding(mesh, spec))

    return jax.tree.map(split, tree)


def join_rows(tree: PyTree) -> PyTree:
    """Undoes :func:`split_rows`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def in_parts(
    part_fn: PartFn, params: Params, batch: PyTree, parts: int, mesh: Mesh | None = None
) -> tuple[Float[Array, ""], PyTree, PyTree]:
    """Returns ``Σ_j sum_j / max(Σ_j count_j, 1)``, its gradient, and the per-example results.

    The count must not depend on ``params``: the gradient is that of the sums, divided at the end.

    Args:
        part_fn: See ``PartFn``.
        params: What is differentiated.
        batch: Pytree of arrays with the examples in front.
        parts: How many parts; divides the batch.
        mesh: The devices the rows lie on, if there are several.
    """
    gradient = jax.value_and_grad(part_fn, has_aux=True)

    def body(carry: Any, part: Any) -> tuple[Any, PyTree]:
        total, count, summed = carry
        (value, (share, each)), grads = gradient(params, part)
        return (total + value, count + share, jax.tree.map(jnp.add, summed, grads)), each

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jax.tree.map(jnp.zeros_like, params))
    carry, each = jax.lax.scan(body, start, split_rows(batch, parts, mesh))
    total, count, summed = carry
    count = jnp.maximum(count, 1.0)
    return total / count, jax.tree.map(lambda g: g / count.astype(g.dtype), summed), join_rows(each)


class Inputs(Protocol):
    """What stands between a batch and the objective where the two are not the same.

    Fine-tuning draws latents from a batch's moments, and its network's weights are trained ones,
    frozen ones and the batch's text embeddings together.
    """

    def draw(self, key: Array, batch: Any) -> Any:
        """Returns a step's examples, a :class:`TrainBatch`; ``key`` is the step's own."""
        ...

    def params(self, trained: Params, frozen: Params, batch: Any) -> Params:
        """Returns what the two functions of the network are given as ``params``."""
        ...


def make_train_step(
    denoise_fn: DenoiseFn,
    encode_fn: EncodeFn,
    schedule: NoiseSchedule,
    tx: optax.GradientTransformation,
    options: TrainOptions | None = None,
    *,
    learning_rate: optax.Schedule | None = None,
    inputs: Inputs | None = None,
    sharding: Sharding | None = None,
    accumulate: int = 1,
) -> StepFn:
    """Returns the jitted ``step(state, batch, frozen=None) -> (state, metrics)``.

    The loss is ``mean_i w_i ‖f(x_t, t, c_i) − target_i‖²/d`` with ``t ~ U{0..T−1}`` and
    ``ε ~ N(0, I)`` drawn from ``fold_in(state.key, state.step)`` in the global batch's shape, so
    the noise does not depend on the number of devices. A step with a non-finite loss or gradient
    changes no weight, no moment and no average; so does a step whose examples were all filtered.

    Args:
        denoise_fn: ``(params, x_t, t, cond) -> output``, the raw prediction (ε or v).
        encode_fn: ``(params, labels) -> cond``.
        schedule: The noise schedule.
        tx: The optimizer; clipping of the global norm belongs in it.
        options: See :class:`TrainOptions`.
        learning_rate: Update count → rate, only to report it.
        inputs: See :class:`Inputs`; None takes batches and weights as they are.
        sharding: Mesh and rules where there are several devices; the state then lies as
            ``sharding.of(state)`` says, before and after.
        accumulate: Parts in which the batch is taken, one after the other.

    Returns:
        The step. It donates ``state`` and leaves ``frozen`` alone. Metrics are float32 scalars:
        ``loss``, ``grad_norm`` (before the clip), ``kept_frac``, ``skipped``, ``total_skipped``,
        and ``learning_rate`` if given; with the filter also ``magnitude``, the batch's mean over
        rows with a condition.

    .. note:: With the filter on, a step costs one more forward pass, without gradient.
    """
    options = options or TrainOptions()
    objective = Objective(denoise_fn, encode_fn, schedule, options)

    def step(state: TrainState, batch: Any, frozen: Params = None) -> tuple[TrainState, Metrics]:
        _check_record(state, options)
        key = jax.random.fold_in(state.key, state.step)
        examples = batch if inputs is None else inputs.draw(_drawing_key(key), batch)
        noised = objective.noise(key, examples)

        noised = _over_rows(noised, sharding)

        def weights(trained: Params) -> Params:
            if sharding is not None:
                trained, kept = sharding.gather(trained), sharding.gather(frozen)
            else:
                kept = frozen
            return trained if inputs is None else inputs.params(trained, kept, batch)

        def loss_of(trained: Params) -> tuple[Array, Judged | None]:
            null_output = objective.null_output(weights(state.params), noised)
            return objective.loss(weights(trained), noised, null_output)

        def part_of(trained: Params, part: Noised) -> Any:
            null_output = objective.null_output(weights(state.params), part)
            return objective.part(weights(trained), part, null_output)

        mesh = None if sharding is None else sharding.mesh
        with announced(mesh):
            if accumulate == 1:
                (loss, judged), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            else:
                loss, grads, judged = in_parts(part_of, state.params, noised, accumulate, mesh)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        apply = finite if judged is None else finite & (judged.weights.sum() > 0)
        # Without the barrier XLA repeats the two tests in every leaf it selects.
        finite, apply = jax.lax.optimization_barrier((finite, apply))
        new = _count(_update(state, grads, apply, tx, options), apply, finite)
        new = new._replace(filter=_record(state, batch, noised, judged, finite, options))
        metrics = {"loss": loss, "grad_norm": grad_norm} | _count_metrics(new, noised, judged)
        if learning_rate is not None:
            metrics["learning_rate"] = jnp.asarray(learning_rate(state.updates), jnp.float32)
        if sharding is not None:
            new = jax.lax.with_sharding_constraint(new, sharding.of(new))
            metrics = jax.lax.with_sharding_constraint(metrics, sharding.whole)
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def _over_rows(noised: Noised, sharding: Sharding | None) -> Noised:
    """Keeps each device at its own rows of what was drawn for the whole batch."""
    if sharding is None:
        return noised
    return jax.lax.with_sharding_constraint(noised, rows_over(sharding.mesh))


def _drawing_key(key: Array) -> Array:
    """A key for :meth:`Inputs.draw` that is none of those the noise of the step is drawn from."""
    return jax.random.fold_in(jax.random.clone(key), 0x1A7E)


def _check_record(state: TrainState, options: TrainOptions) -> None:
    if options.filter_threshold is not None and state.filter is None:
        raise ValueError(
            "filter_threshold is set but the state has no filter record: "
            "make it with create_state(..., num_rows=N, filter=True)."
        )


def ema_decay_at(updates: Int[Array, ""], options: TrainOptions) -> Float[Array, ""]:
    """Returns the moving average's decay after ``n`` updates: ``min(decay, (1 + n)/(10 + n))``."""
    decay = jnp.float32(options.ema_decay)
    if not options.ema_warmup:
        return decay
    n = updates.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def _select(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _update(
    state: TrainState,
    grads: PyTree,
    apply: Bool[Array, ""],
    tx: optax.GradientTransformation,
    options: TrainOptions,
) -> TrainState:
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = _select(apply, optax.apply_updates(state.params, updates), state.params)
    # Else the CPU compiler makes the new weights again for the average, from copies of the old.
    alone = jax.lax.optimization_barrier
    params = jax.lax.platform_dependent(params, cpu=alone, default=lambda whole: whole)
    rate = 1.0 - ema_decay_at(state.updates, options)
    ema_params = jax.tree.map(lambda e, p: e + rate * (p - e), state.ema_params, params)
    return state._replace(
        params=params,
        ema_params=_select(apply, ema_params, state.ema_params),
        opt_state=_select(apply, opt_state, state.opt_state),
    )


def _count(state: TrainState, apply: Bool[Array, ""], finite: Bool[Array, ""]) -> TrainState:
    return state._replace(
        step=state.step + 1,
        updates=state.updates + apply.astype(jnp.int32),
        skipped=jnp.where(finite, 0, state.skipped + 1).astype(jnp.int32),
        total_skipped=state.total_skipped + (~finite).astype(jnp.int32),
    )


def _record(
    state: TrainState,
    batch: TrainBatch,
    noised: Noised,
    judged: Judged | None,
    finite: Bool[Array, ""],
    options: TrainOptions,
) -> FilterRecord | None:
    if state.filter is None or judged is None:
        return state.filter
    record = update_record(
        state.filter,
        jnp.asarray(batch.row),
        judged.magnitude,
        judged.weights,
        noised.dropped,
        decay=options.filter_decay,
    )
    return _select(finite, record, state.filter)


def _count_metrics(state: TrainState, noised: Noised, judged: Judged | None) -> Metrics:
    counts = {
        "kept_frac": jnp.float32(1.0) if judged is None else jnp.mean(judged.weights),
        "skipped": state.skipped.astype(jnp.float32),
        "total_skipped": state.total_skipped.astype(jnp.float32),
    }
    if judged is not None:
        with_condition = jnp.maximum(jnp.sum(~noised.dropped), 1)
        counts["magnitude"] = jnp.sum(judged.magnitude) / with_condition
    return counts

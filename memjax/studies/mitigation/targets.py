"""One pass of the embedding optimizer over some prompts of a model, left at several targets."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.condition import with_embeddings
from memjax.core.types import Array, Bundle, Cond, Detector
from memjax.detectors import NoiseMagnitude, null_or_refuse
from memjax.mitigations import States, optimize_targets
from memjax.mitigations.embedding import states_of
from memjax.sampling import SamplingOptions
from memjax.studies.problems import problem_of, setup_of

_MAGNITUDE = NoiseMagnitude(rms=True)
_optimize = jax.jit(optimize_targets, static_argnames=("statistic", "eps_fn", "num_iters", "group"))


class TargetedRepair(NamedTuple):
    """What one pass gives for the prompts of a chunk.

    Attributes:
        conds: The mitigated conditions, one a target.
        before: RMS statistic of the prompts as they were.
        after: RMS statistic at the returned embeddings.
        iterations: Updates until each target.
        reached: Whether the target was reached; True for target 0, which asks for all updates.
    """

    conds: list[Cond]
    before: Float[np.ndarray, " p"]
    after: Float[np.ndarray, "k p"]
    iterations: Int[np.ndarray, "k p"]
    reached: Bool[np.ndarray, "k p"]


def repair_targets(
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    sampling: SamplingOptions,
    *,
    targets_rms: Sequence[float],
    statistic: Detector = _MAGNITUDE,
    steps: tuple[int, ...] = (0,),
    num_iters: int = 10,
    learning_rate: float = 0.05,
    weight_decay: float = 0.0,
    radius: float = float("inf"),
    trainable: Bool[np.ndarray, "#p l"] | None = None,
    group: int | None = None,
) -> TargetedRepair:
    """Optimizes the embeddings of some prompts; states and ε_∅ are computed once for all targets.

    Args:
        bundle: The model.
        x_T: Initial noise ``[generation, ...]`` shared by all prompts.
        cond: Conditions of the prompts.
        sampling: How images are made: decides the timesteps, and the trajectory where a step
            other than the first is minimized over.
        targets_rms: Where a prompt is left, RMS; 0 runs all updates.
        statistic: What is minimized, any differentiable detector of states.
        steps: Step indices to minimize over; ``(0,)`` is the published setting, which makes no
            trajectory.
        num_iters: Most updates.
        learning_rate: AdamW's.
        weight_decay: AdamW's; masked like the update.
        radius: Ball around the original embedding.
        trainable: Which tokens may move; default all but BOS.
        group: States of a prompt evaluated together, see :func:`optimize_targets`.
    """
    null_or_refuse(bundle.null_cond)
    problem = problem_of(bundle, (), cond, x_T, sampling)
    states = states_of(problem, setup_of(bundle, sampling, problem.size), tuple(steps))
    targets = np.asarray(targets_rms, np.float32)
    found = _optimize(
        statistic,
        bundle.eps_fn,
        bundle.params,
        states,
        cond,
        targets=jnp.asarray(targets),
        num_iters=num_iters,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        radius=radius,
        trainable=None if trainable is None else jnp.asarray(trainable),
        group=group,
        null_cond=bundle.null_cond if statistic.evals else None,
        schedule=bundle.schedule,
    )
    after = np.asarray(found.loss)
    return TargetedRepair(
        [with_embeddings(cond, e) for e in found.embeddings],
        np.asarray(found.losses[0]),
        after,
        np.asarray(found.iterations),
        (after <= targets[:, None]) | (targets[:, None] <= 0),
    )


def trace_repair(
    bundle: Bundle,
    x_T: Array,
    cond: Cond,
    rows: int,
    *,
    steps: int,
    num_iters: int,
    targets: int,
    statistic: Detector = _MAGNITUDE,
) -> jax.stages.Traced:
    """Traces the optimizer for a number of prompts, to learn what memory it needs.

    Args:
        bundle: The model.
        x_T: Initial noises.
        cond: Conditions, whose shapes are taken.
        rows: Prompts at a time.
        steps: How many steps are minimized over.
        num_iters: Most updates.
        targets: How many targets.
        statistic: What is minimized.
    """
    per_prompt, shape = steps * len(x_T), x_T.shape[1:]
    state = jax.ShapeDtypeStruct((rows, per_prompt, *shape), jnp.float32)
    times = jax.ShapeDtypeStruct((rows, per_prompt), jnp.int32)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), cond)
    return _optimize.trace(
        statistic,
        bundle.eps_fn,
        bundle.params,
        States(state, times, state),
        like,
        targets=jax.ShapeDtypeStruct((targets,), jnp.float32),
        num_iters=num_iters,
    )

"""The mitigations an audit tries on the prompts a model has memorised."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.condition import embeddings_of, num_rows, take_rows
from memjax.core.types import Array, Bundle, Cond, PromptRow
from memjax.data.labels import FINDINGS, suggestion
from memjax.detectors import Detection, NoiseMagnitude, null_or_refuse
from memjax.evaluate.options import FIRST_STEP, NOISE, SWAP, AuditOptions, SamplingOptions
from memjax.explain import explain_states
from memjax.mitigations import add_embedding_noise, optimize_embedding, swap_tokens
from memjax.sampling import (
    STATIC_ARGUMENTS,
    States,
    collect_states,
    first_step_states,
    timesteps,
)

_collect = jax.jit(
    collect_states,
    static_argnames=("steps", *STATIC_ARGUMENTS),
)

_first_step = jax.jit(first_step_states, static_argnames=("eps_fn",))

_significance = jax.jit(explain_states, static_argnames=("eps_fn",))

_optimize = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def chunks(rows: Cond, size: int) -> list[Cond]:
    """Splits rows into chunks of one size; the last row is repeated to fill the last chunk."""
    count = num_rows(rows)
    starts = range(0, count, min(size, count) or 1)
    return [take_rows(rows, np.arange(s, s + min(size, count)).clip(max=count - 1)) for s in starts]


def states_of(
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    sampling: SamplingOptions,
    options: AuditOptions,
) -> States:
    """Returns the states of some prompts at the steps that are explained and mitigated."""
    return collect_at(bundle, x_T, cond, sampling, options.mitigate_steps)


def collect_at(
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    sampling: SamplingOptions,
    steps: tuple[int, ...],
) -> States:
    """Returns the states of some prompts at some steps of their guided trajectory."""
    return _collect(
        bundle.eps_fn,
        bundle.params,
        x_T,
        cond,
        null_or_refuse(bundle.null_cond),
        bundle.schedule,
        steps=steps,
        **sampling.static(),
    )


def explain_prompts(
    bundle: Bundle, states: list[States], cond: Cond, options: AuditOptions
) -> Float[np.ndarray, "k l"]:
    """Returns the token significance ``[prompt, token]``, the mean over generations.

    Args:
        bundle: The model.
        states: Of :func:`states_of`, chunk by chunk.
        cond: Conditions of all prompts.
        options: Decides the chunks.
    """
    weights = [
        np.asarray(_significance(bundle.eps_fn, bundle.params, part, rows)).mean(axis=1)
        for part, rows in zip(states, chunks(cond, options.chunk), strict=True)
    ]
    return np.concatenate(weights)[: num_rows(cond)] if weights else np.zeros((0, 0))


def ordinary_level(per_step: Float[np.ndarray, "p g s"], steps: Sequence[int], dim: int) -> float:
    """Returns the mean RMS magnitude of ordinary prompts at some steps."""
    return float(per_step[:, :, list(steps)].mean() / np.sqrt(dim))


def stopping_level(
    name: str, detection: Detection | None, ordinary: Int[np.ndarray, " k"], options: AuditOptions
) -> float:
    """Returns the RMS magnitude at which a prompt is left alone.

    Args:
        name: The mitigation.
        detection: Of all prompts.
        ordinary: Prompts that are not memorised.
        options: ``target_rms``, or the share of the ordinary prompts' mean.
    """
    if options.target_rms is not None or detection is None or not ordinary.size:
        return options.target_rms or 0.0
    steps = (0,) if name == FIRST_STEP else options.mitigate_steps
    level = ordinary_level(detection.per_step[ordinary], steps, detection.dim)
    return options.target_ordinary * level


def may_move(
    bundle: Bundle, rows: Sequence[PromptRow], protect: Sequence[str]
) -> Bool[np.ndarray, "k l"]:
    """Returns which tokens a mitigation may move: never BOS, nor a protected label's.

    Raises:
        ValueError: If ``protect`` names no label of the model.
    """
    names = [[n.split(":")[0] for n in bundle.describe(row)] for row in rows]
    known = {name.casefold() for row in names for name in row}
    asked = {name.casefold() for name in protect}
    for name in asked - known - {"findings"}:
        raise ValueError(
            f"protect names {name!r}, which no token of the prompts has"
            f"{suggestion(name, sorted(known))}: give label names such as View, or findings."
        )
    if "findings" in asked:
        asked |= {name.casefold() for name in FINDINGS}
    table = [[i > 0 and n.casefold() not in asked for i, n in enumerate(row)] for row in names]
    return np.asarray(table, bool)


def mitigate_prompts(
    name: str,
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    rows: Sequence[PromptRow],
    cond: Cond,
    pool: Cond,
    sampling: SamplingOptions,
    options: AuditOptions,
    *,
    target_rms: float = 0.0,
    states: list[States] | None = None,
) -> Cond:
    """Applies one mitigation to some prompts.

    Args:
        name: One of :data:`ARMS`.
        bundle: The model.
        x_T: Initial noise ``[generation, ...]`` shared by all prompts.
        rows: The prompts to mitigate.
        cond: Conditions of the prompts to mitigate.
        pool: Conditions that the random condition change draws from.
        sampling: How pictures are made.
        options: Steps, rates and radii.
        target_rms: Where a prompt stops; 0 runs all updates.
        states: The chunks' states at ``options.mitigate_steps``, where they are known already.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), 1)
    if name == NOISE:
        return add_embedding_noise(key, cond, options.noise_scale)
    if name == SWAP:
        tokens = embeddings_of(cond).shape[1] - 1  # BOS stays
        return swap_tokens(key, cond, pool, min(options.swap_tokens, tokens))
    first, parts = name == FIRST_STEP, chunks(cond, options.chunk)
    movable = chunks(may_move(bundle, rows, () if first else options.protect), options.chunk)
    if first:
        states = [first_states(bundle, x_T, part, sampling) for part in parts]
    elif states is None:
        states = [states_of(bundle, x_T, part, sampling, options) for part in parts]
    done = [
        _optimize(
            NoiseMagnitude(rms=True),
            bundle.eps_fn,
            bundle.params,
            at,
            part,
            num_iters=options.first_step_iters if first else options.num_iters,
            learning_rate=options.first_step_learning_rate if first else options.learning_rate,
            target=target_rms,
            radius=options.radius,
            trainable=moving,
        ).cond
        for at, part, moving in zip(states, parts, movable, strict=True)
    ]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *done)
    return jax.block_until_ready(take_rows(joined, np.arange(len(rows))))


def first_states(
    bundle: Bundle, x_T: Float[Array, "g *d"], cond: Cond, sampling: SamplingOptions
) -> States:
    """Returns the paper's setting: the initial noise at the first timestep."""
    grid = timesteps(
        bundle.schedule.num_timesteps, sampling.num_steps, sampling.spacing, sampling.steps_offset
    )
    null = null_or_refuse(bundle.null_cond)
    return _first_step(bundle.eps_fn, bundle.params, x_T, jnp.asarray(grid[0]), cond, null)

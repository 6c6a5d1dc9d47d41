"""A model's sampling problems, what mitigations may use of it, and its token significance."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.condition import num_rows, take_rows
from memjax.core.guidance import ClassifierFree
from memjax.core.types import Array, Bundle, Cond, Detector, PromptRow
from memjax.data.labels.space import FINDINGS, suggestion
from memjax.detectors import Detection
from memjax.explain import explain_states
from memjax.mitigations import Problem, Setup
from memjax.mitigations.base import chunk_numbers
from memjax.runs.options import AuditOptions
from memjax.sampling import SamplingOptions, States

_significance = jax.jit(explain_states, static_argnames=("eps_fn",))


def chunked(rows: Cond, size: int) -> list[Cond]:
    """Splits rows into chunks of one size; the last row is repeated to fill the last chunk."""
    return [take_rows(rows, numbers) for numbers in chunk_numbers(num_rows(rows), size)]


def problem_of(
    bundle: Bundle,
    rows: Sequence[PromptRow],
    cond: Cond,
    x_T: Float[Array, "g *d"],
    sampling: SamplingOptions,
) -> Problem:
    """Returns the sampling problem of some prompts as they were asked."""
    guided = bundle.null_cond is not None
    guidance = ClassifierFree(jnp.float32(sampling.guidance_scale)) if guided else None
    return Problem(rows, bundle.params, cond, bundle.null_cond, jnp.asarray(x_T), guidance)


def setup_of(bundle: Bundle, sampling: SamplingOptions, chunk: int, **more: Any) -> Setup:
    """Returns what mitigations may use of a model.

    Args:
        bundle: The model.
        sampling: How images are made.
        chunk: Prompts evaluated together.
        **more: Other fields of :class:`memjax.mitigations.Setup`.
    """
    settings = sampling.static()
    del settings["guidance_scale"]  # a problem has a guidance of its own
    return Setup(
        bundle.eps_fn,
        bundle.schedule,
        settings,
        chunk,
        encode=bundle.encode,
        trainable=partial(may_move, bundle),
        **more,
    )


def ordinary_levels(
    detection: Detection | None,
    detectors: Mapping[str, Detector],
    ordinary: Int[np.ndarray, " k"],
) -> Callable[[Detector, tuple[int, ...]], float | None]:
    """Returns ``(detector, step indices) →`` its mean on ordinary prompts, None where not known.

    Args:
        detection: Of all prompts.
        detectors: Text → detector, as it was measured.
        ordinary: Prompts that are not memorized.
    """

    def level(wanted: Detector, steps: tuple[int, ...]) -> float | None:
        if detection is None or not len(ordinary):
            return None
        for name, measured in detectors.items():
            if type(measured) is type(wanted) and name in detection.statistics:
                values = detection.statistics[name][ordinary]
                own = getattr(measured, "rms", False)
                scaled = getattr(wanted, "rms", False) and not own
                return ordinary_level(values, steps, detection.dim if scaled else 1)
        return None

    return level


def explain_prompts(
    bundle: Bundle, states: Sequence[States], cond: Cond, options: AuditOptions
) -> Float[np.ndarray, "k l"]:
    """Returns the token significance ``[prompt, token]``, the mean over generations.

    Args:
        bundle: The model.
        states: Of :func:`memjax.mitigations.embedding.states_of`, chunk by chunk.
        cond: Conditions of all prompts.
        options: Decides the chunks.
    """
    weights = [
        np.asarray(_significance(bundle.eps_fn, bundle.params, part, rows)).mean(axis=1)
        for part, rows in zip(states, chunked(cond, options.chunk), strict=True)
    ]
    return np.concatenate(weights)[: num_rows(cond)] if weights else np.zeros((0, 0))


def ordinary_level(per_step: Float[np.ndarray, "p g s"], steps: Sequence[int], dim: int) -> float:
    """Returns the mean RMS magnitude of ordinary prompts at some steps."""
    return float(per_step[:, :, list(steps)].mean() / np.sqrt(dim))


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

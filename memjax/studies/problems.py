"""A model's sampling problems, what mitigations may use of it, and its token significance."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.condition import chunk_numbers, num_rows, take_rows
from memjax.core.guidance import ClassifierFree
from memjax.core.types import Array, Bundle, Cond, Detector, PromptRow
from memjax.data.labels.space import FINDINGS, suggestion
from memjax.detectors import Detection
from memjax.explain import explain_states
from memjax.mitigations import Chain, Problem, Setup
from memjax.runs.options import AuditOptions
from memjax.sampling import SamplingOptions, States, step_window

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
    return Setup(
        bundle.eps_fn,
        bundle.schedule,
        sampling.unguided(),  # a problem has a guidance of its own
        chunk,
        encode=bundle.encode,
        trainable=partial(trainable_tokens, bundle),
        **more,
    )


def _statistic_of(detector: Detector) -> Detector:
    """Returns a detector without what only scales or averages it."""
    plain = {"steps": None, "rms": False}
    names = {field.name for field in dataclasses.fields(detector)}  # type: ignore[arg-type]
    changes = {name: value for name, value in plain.items() if name in names}
    return dataclasses.replace(detector, **changes)  # type: ignore[type-var]


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
            if _statistic_of(measured) == _statistic_of(wanted) and name in detection.statistics:
                found = ordinary_level(detection.statistics[name][ordinary], steps, 1)
                scale = math.sqrt(detection.dim)
                found *= scale if getattr(measured, "rms", False) else 1.0
                found /= scale if getattr(wanted, "rms", False) else 1.0
                # A detector that evaluates the network is NaN outside its own steps.
                return found if math.isfinite(found) else None
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


def trainable_tokens(
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


def word_pool(rows: Sequence[PromptRow]) -> list[str]:
    """Returns the different words of all captions."""
    return sorted({word for row in rows for word in str(row.get("caption") or "").split()})


def token_pool(tokenizer: Any) -> list[str]:
    """Returns a tokenizer's pieces that are plain words or parts of words."""
    pieces = {piece for piece in tokenizer.pieces() if not piece.startswith("<|")}
    return sorted(piece for piece in pieces if piece.isascii() and piece.isprintable() and piece)


def check_methods(
    detectors: Mapping[str, Detector],
    chains: Sequence[Chain],
    num_steps: int,
    *,
    text: bool,
    generations: int,
) -> None:
    """Refuses detectors and mitigations that cannot be served, before any work.

    Args:
        detectors: Text → detector.
        chains: Mitigations.
        num_steps: Steps of a trajectory.
        text: Whether the model reads captions.
        generations: Images a prompt.

    Raises:
        ValueError: Naming the method and what it asks for.
    """
    for name, detector in detectors.items():
        if detector.domain == "images" and generations < 2:
            raise ValueError(
                f"{name} compares the images of a prompt with each other, and there is "
                f"{generations}: give --generations=2 or more."
            )
        try:
            step_window(detector.steps, num_steps)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for chain in chains:
        for mitigation in chain.mitigations:
            steps = getattr(mitigation, "steps", ())
            if steps and max(steps) >= num_steps:
                raise ValueError(
                    f"{chain.text}: step {max(steps)} of {num_steps} steps (0 to {num_steps - 1}): "
                    "give steps within the trajectory, or sample more."
                )
            if "text" in mitigation.needs and not text:
                raise ValueError(
                    f"{chain.text}: {type(mitigation).__name__} changes captions, and this model "
                    "reads labels: take a mitigation of conditions."
                )

"""What all detectors share: their result, step windows, thresholds, and when to refuse."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from memjax.core.guidance import null_or_refuse

__all__ = ["Detection", "Steps", "fit_threshold", "null_or_refuse", "reduce_steps", "step_window"]

Steps: TypeAlias = str | int | tuple[int, int]


class Detection(NamedTuple):
    """The full score array of one run; every reduction comes after.

    Attributes:
        per_step: Raw statistic per prompt, generation and step.
        images: Final states ``[prompt, generation, ...]``, or None where no image was finished.
        forward_evals: Network evaluations spent, counted per example.
        dim: Number of dimensions of one state, for the RMS form ``norm / √dim``.
    """

    per_step: Float[np.ndarray, "p g s"]
    images: Float[np.ndarray, "p g *d"] | None
    forward_evals: int
    dim: int

    def scores(self, steps: Steps = "all", *, rms: bool = False) -> Float[np.ndarray, " p"]:
        """Returns one score per prompt: the mean over generations and the chosen steps."""
        return self.per_generation(steps, rms=rms).mean(axis=1)

    def per_generation(
        self, steps: Steps = "all", *, rms: bool = False
    ) -> Float[np.ndarray, "p g"]:
        """Returns one score per prompt and generation: the mean over the chosen steps."""
        scores = reduce_steps(self.per_step, steps)
        return scores / math.sqrt(self.dim) if rms else scores


def step_window(steps: Steps, num_steps: int) -> tuple[int, int]:
    """Resolves ``first``, ``all``, K or ``(start, stop)`` to a half-open window of step indices.

    Raises:
        ValueError: If the window is empty or does not fit into ``num_steps``.
    """
    if steps == "first":
        window = (0, 1)
    elif steps == "all":
        window = (0, num_steps)
    elif isinstance(steps, tuple) and len(steps) == 2:
        window = (int(steps[0]), int(steps[1]))
    elif isinstance(steps, int) or (isinstance(steps, str) and steps.isdigit()):
        window = (0, int(steps))
    else:
        raise ValueError(f"steps is {steps!r}, expected 'first', 'all', a number or (start, stop).")
    if not 0 <= window[0] < window[1] <= num_steps:
        raise ValueError(
            f"steps={steps!r} is the window {window}, expected a non-empty one within "
            f"0..{num_steps}: sample more steps or choose fewer."
        )
    return window


def reduce_steps(
    per_step: Float[np.ndarray, "p g s"], steps: Steps = "all"
) -> Float[np.ndarray, "p g"]:
    """Returns the mean over a window of steps, per prompt and generation."""
    start, stop = step_window(steps, per_step.shape[-1])
    return np.asarray(per_step[..., start:stop], np.float64).mean(axis=-1)


def fit_threshold(scores: Float[np.ndarray, " n"], target_fpr: float = 0.01) -> float:
    """Returns the smallest threshold with ``mean(scores > threshold) ≤ target_fpr``.

    Args:
        scores: Scores of prompts known not to be memorised (higher = more memorised).
        target_fpr: Accepted share of false alarms, in [0, 1).

    Raises:
        ValueError: If there is no score, one is not finite, or the rate is out of range.

    .. note:: Flag a prompt when its score is *greater than* the threshold. Published thresholds
        hold for one model and latent size only, so memjax hard-codes none.
    """
    values = np.sort(np.asarray(scores, np.float64).ravel())[::-1]
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(
            f"fit_threshold got {values.size} scores, expected at least one and all finite: "
            "give the scores of prompts that are not memorised."
        )
    if not 0.0 <= target_fpr < 1.0:
        raise ValueError(f"target_fpr is {target_fpr}, expected a rate in [0, 1).")
    rates = np.arange(values.size) / values.size
    return float(values[np.searchsorted(rates, target_fpr, side="right") - 1])

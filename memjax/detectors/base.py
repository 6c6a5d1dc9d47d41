"""What all detectors share: their result, step windows, thresholds, and when to refuse."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.core.guidance import null_or_refuse
from memjax.core.types import Detector, Steps
from memjax.sampling import step_window

__all__ = [
    "Detection",
    "Steps",
    "fit_threshold",
    "null_or_refuse",
    "reduce_steps",
    "refuse_undifferentiable",
    "step_window",
]


class Detection(NamedTuple):
    """All values of some detectors on some prompts; every reduction comes after.

    Attributes:
        statistics: Detector → raw statistic per prompt, generation and step that was run; NaN at
            steps where it was not evaluated.
        images: Final states ``[prompt, generation, ...]``, or None where no image was finished.
        forward_evals: Network evaluations spent, counted per example.
        dim: Number of dimensions of one state, for the RMS form ``norm / √dim``.
        windows: Detector → the steps whose mean is its score; all of them where it is left out.
    """

    statistics: Mapping[str, Float[np.ndarray, "p g s"]]
    images: Float[np.ndarray, "p g *d"] | None
    forward_evals: int
    dim: int
    windows: Mapping[str, Steps | None] = {}

    @property
    def name(self) -> str:
        """The first detector, which is meant where none is named."""
        return next(iter(self.statistics))

    @property
    def per_step(self) -> Float[np.ndarray, "p g s"]:
        """The statistic of the first detector."""
        return self.statistics[self.name]

    def scores(
        self, steps: Steps | None = None, *, rms: bool = False, name: str | None = None
    ) -> Float[np.ndarray, " p"]:
        """Returns one score per prompt: the mean over generations and steps.

        Args:
            steps: The window; default the detector's own.
            rms: Divide by ``√dim``.
            name: Which detector; default the first.
        """
        return self.per_generation(steps, rms=rms, name=name).mean(axis=1)

    def per_generation(
        self, steps: Steps | None = None, *, rms: bool = False, name: str | None = None
    ) -> Float[np.ndarray, "p g"]:
        """Returns one score per prompt and generation: the mean over the chosen steps."""
        name = self.name if name is None else name
        steps = self.windows.get(name) if steps is None else steps
        scores = reduce_steps(self.statistics[name], "all" if steps is None else steps)
        return scores / math.sqrt(self.dim) if rms else scores


def refuse_undifferentiable(detector: Detector) -> None:
    """Refuses a detector that has no gradient with respect to a condition at one state.

    Raises:
        ValueError: Naming it and the way out.
    """
    if detector.domain != "state" or not detector.differentiable:
        what = f"looks at {detector.domain}" if detector.domain != "state" else "has no gradient"
        raise ValueError(
            f"{type(detector).__name__} {what}, expected a differentiable statistic of one state: "
            "take one such as NoiseMagnitude."
        )


def reduce_steps(
    per_step: Float[np.ndarray, "p g s"], steps: Steps = "all"
) -> Float[np.ndarray, "p g"]:
    """Returns the mean over a window of steps, per prompt and generation."""
    start, stop = step_window(steps, per_step.shape[-1])
    return np.asarray(per_step[..., start:stop], np.float64).mean(axis=-1)


def fit_threshold(scores: Float[np.ndarray, " n"], target_fpr: float = 0.01) -> float:
    """Returns the smallest threshold with ``mean(scores > threshold) ≤ target_fpr``.

    Args:
        scores: Scores of prompts known not to be memorized (higher = more memorized).
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
            "give the scores of prompts that are not memorized."
        )
    if not 0.0 <= target_fpr < 1.0:
        raise ValueError(f"target_fpr is {target_fpr}, expected a rate in [0, 1).")
    rates = np.arange(values.size) / values.size
    return float(values[np.searchsorted(rates, target_fpr, side="right") - 1])

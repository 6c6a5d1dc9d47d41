"""The warning signal of an audit: the magnitude, or the first detector where it has no meaning."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.core.registry import title_of
from memjax.core.types import Steps
from memjax.detectors import Detection
from memjax.runs.options import MAGNITUDE, AuditOptions


class Signal(NamedTuple):
    """One detector as the figures of a report use it; higher = more memorized.

    Attributes:
        name: The detector's text.
        title: The detector in words.
        scores: One value a prompt.
        per_generation: One value an image; RMS for the magnitude.
        curve: Its mean over generations at each step; RMS for the magnitude.
        steps: The steps whose mean is the score.
    """

    name: str
    title: str
    scores: Float[np.ndarray, " p"]
    per_generation: Float[np.ndarray, "p g"]
    curve: Float[np.ndarray, "p s"]
    steps: Steps | None

    @property
    def is_magnitude(self) -> bool:
        """Whether it is the magnitude, which the windows of an audit are for."""
        return self.name == MAGNITUDE


def signal_of(detection: Detection | None, options: AuditOptions) -> Signal | None:
    """Returns the warning signal; None where no detector was measured.

    Args:
        detection: Of some prompts.
        options: Their window is the magnitude's; other detectors have one of their own.
    """
    if detection is None:
        return None
    if MAGNITUDE in detection.statistics:
        return Signal(
            MAGNITUDE,
            title_of(MAGNITUDE),
            detection.scores(options.window),
            detection.per_generation(options.window, rms=True),
            detection.per_step.mean(axis=1) / np.sqrt(detection.dim),
            options.window,
        )
    name = detection.name
    values = detection.per_generation()
    curve = detection.per_step.mean(axis=1)
    return Signal(
        name, title_of(name), values.mean(axis=1), values, curve, detection.windows.get(name)
    )

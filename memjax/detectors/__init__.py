"""Statistics that say how memorised a condition is. Works with jax alone: no flax needed."""

from memjax.detectors.base import Detection, fit_threshold, null_or_refuse, reduce_steps
from memjax.detectors.noise_magnitude import (
    MagnitudeTap,
    NoiseMagnitude,
    detect,
    first_step_magnitudes,
    trajectory_magnitudes,
)

__all__ = [
    "Detection",
    "MagnitudeTap",
    "NoiseMagnitude",
    "detect",
    "first_step_magnitudes",
    "fit_threshold",
    "null_or_refuse",
    "reduce_steps",
    "trajectory_magnitudes",
]

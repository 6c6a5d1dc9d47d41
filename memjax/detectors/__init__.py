"""Statistics that say how memorised a condition is. Works with jax alone: no flax needed."""

from memjax.detectors.base import Detection, fit_threshold, null_or_refuse, reduce_steps
from memjax.detectors.detection import detect
from memjax.detectors.noise_magnitude import (
    MagnitudeTap,
    NoiseMagnitude,
    first_step_magnitudes,
    trajectory_magnitudes,
)
from memjax.detectors.probe import Probe, prepare

__all__ = [
    "Detection",
    "MagnitudeTap",
    "NoiseMagnitude",
    "Probe",
    "detect",
    "first_step_magnitudes",
    "fit_threshold",
    "null_or_refuse",
    "prepare",
    "reduce_steps",
    "trajectory_magnitudes",
]

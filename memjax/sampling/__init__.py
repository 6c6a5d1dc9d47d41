"""From noise to images: steppers, and the one loop that all of memjax samples with."""

from memjax.sampling.loop import Sample, sample
from memjax.sampling.steppers import DDIM, DDPM, DPMSolverPP2M, Stepper, make_stepper, timesteps

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolverPP2M",
    "Sample",
    "Stepper",
    "make_stepper",
    "sample",
    "timesteps",
]

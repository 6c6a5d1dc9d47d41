"""From noise to images: steppers, and the one loop that all of memjax samples with."""

from memjax.sampling.loop import STATIC_ARGUMENTS, Sample, at_state, sample, step_window
from memjax.sampling.options import SamplingOptions
from memjax.sampling.states import States, collect_states, first_step_states
from memjax.sampling.steppers import DDIM, DDPM, DPMSolverPP2M, Stepper, make_stepper, timesteps

__all__ = [
    "DDIM",
    "DDPM",
    "STATIC_ARGUMENTS",
    "DPMSolverPP2M",
    "Sample",
    "SamplingOptions",
    "States",
    "Stepper",
    "at_state",
    "collect_states",
    "first_step_states",
    "make_stepper",
    "sample",
    "step_window",
    "timesteps",
]

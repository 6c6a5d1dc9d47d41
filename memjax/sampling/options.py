"""How images are made, as values: what configurations, flags and provenance hold."""

import dataclasses
from typing import Any

from memjax.sampling.steppers import make_stepper


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How images are made; the arguments of :func:`memjax.sampling.sample`.

    Attributes:
        stepper: ``ddim``, ``ddpm`` or ``dpm-solver++``.
        num_steps: Steps of the trajectory.
        guidance_scale: s of ``ε_u + s (ε_c − ε_u)``.
        clip_x0: Clip of the estimated image; None for latents.
        spacing: ``leading``, ``trailing`` or ``linspace``; ``leading_open`` or
            ``linspace_open`` for diffusers' DPM-Solver++ grid.
        steps_offset: Added to ``leading`` timesteps; 1 for Stable Diffusion.
        set_alpha_to_one: End on the exactly clean state; False for Stable Diffusion, which ends
            on ``ᾱ_0``.
    """

    stepper: str = "ddim"
    num_steps: int = 50
    guidance_scale: float = 4.0
    clip_x0: float | None = 1.0
    spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    def repeatable(self) -> "SamplingOptions":
        """Returns itself where the initial noise alone decides the images.

        Raises:
            ValueError: The stepper draws noise of its own.
        """
        if self.stepper == "ddpm":
            raise ValueError(
                "the stepper ddpm draws noise of its own at every step, so that images cannot be "
                "compared from the same noise: give ddim or dpm-solver++; memjax sample takes it."
            )
        return self

    def static(self) -> dict[str, Any]:
        """Returns the keyword arguments of ``sample``."""
        return {
            "stepper": make_stepper(self.stepper),
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_scale,
            "clip_x0": self.clip_x0,
            "spacing": self.spacing,
            "steps_offset": self.steps_offset,
            "set_alpha_to_one": self.set_alpha_to_one,
        }

    def unguided(self) -> dict[str, Any]:
        """Returns :meth:`static` without the scale, for who gives ``guidance`` instead."""
        return {k: v for k, v in self.static().items() if k != "guidance_scale"}

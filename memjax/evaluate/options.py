"""What an audit is asked for: how pictures are made, and what is measured on them."""

import dataclasses
from typing import Any

from memjax.sampling import make_stepper

EMBEDDING, FIRST_STEP, NOISE, SWAP = (
    "embedding_optimization",
    "embedding_first_step",
    "embedding_noise",
    "random_condition_change",
)
ARMS = (EMBEDDING, FIRST_STEP, NOISE, SWAP)


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How pictures are made; the arguments of :func:`memjax.sampling.sample`.

    Attributes:
        stepper: ``ddim``, ``ddpm`` or ``dpm-solver++``.
        num_steps: Steps of the trajectory.
        guidance_scale: s of ``ε_u + s (ε_c − ε_u)``.
        clip_x0: Clip of the estimated picture; None for latents.
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


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """What an audit measures.

    Attributes:
        generations: Pictures a prompt, from initial noise shared by all prompts.
        first_k: Steps of the ``first_k`` detector.
        default: The detector chosen before looking: ``first_step``, ``first_k`` or ``all_steps``.
        target_fpr: False alarms accepted when the threshold is fitted (on trained-once prompts).
        arms: Mitigations to try; the first is the chosen one. Empty tries none.
        mitigate_steps: Step indices over which the chosen mitigation minimises the magnitude, and
            whose gradients explain the tokens.
        num_iters: Updates of the chosen mitigation.
        learning_rate: Its AdamW rate.
        target_rms: Stop a prompt at this RMS magnitude; 0 runs all updates. None stops it at
            ``target_ordinary`` times the mean of the prompts that are not memorised.
        target_ordinary: See there; 1 makes a memorised prompt as loud as an ordinary one.
        radius: Ball around the original embedding, or infinity.
        protect: Keep the tokens of these label names fixed in the chosen mitigation;
            ``("findings",)`` stands for all findings.
        first_step_iters: Updates of the paper's setting (first step only).
        first_step_learning_rate: Its rate.
        noise_scale: Relative embedding noise of that baseline.
        swap_tokens: Tokens replaced by that baseline.
        chunk: Prompts evaluated together.
        seed: Decides noise and draws.
    """

    generations: int = 4
    first_k: int = 25
    default: str = "first_k"
    target_fpr: float = 0.05
    arms: tuple[str, ...] = ARMS
    mitigate_steps: tuple[int, ...] = (5, 15, 25, 35)
    num_iters: int = 20
    learning_rate: float = 0.1
    target_rms: float | None = None
    target_ordinary: float = 1.0
    radius: float = float("inf")
    protect: tuple[str, ...] = ()
    first_step_iters: int = 10
    first_step_learning_rate: float = 0.05
    noise_scale: float = 0.5
    swap_tokens: int = 4
    chunk: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.default not in ("first_step", "first_k", "all_steps"):
            raise ValueError(
                f"default is {self.default!r}, expected first_step, first_k or all_steps."
            )
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise ValueError(f"arms={self.arms}: expected names out of {ARMS}.")

    @property
    def windows(self) -> dict[str, str | int]:
        """The step window of each detector."""
        return {"first_step": "first", "first_k": self.first_k, "all_steps": "all"}

    @property
    def window(self) -> str | int:
        """The window of the detector chosen before looking."""
        return self.windows[self.default]

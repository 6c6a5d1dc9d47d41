"""How far one step from pure noise to the image goes.

References:
    Webster, "A Reproducible Extraction of Training Images from Diffusion Models", 2023,
    arXiv 2305.08694.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.process import coefficients
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import guided, schedule_or_refuse


@dataclasses.dataclass(frozen=True)
class DenoisingConfidence(Detector):
    """One-step denoising confidence, ``‖x_t/√ᾱ_t − x̂0‖₂² / d`` with the guided estimate ``x̂0``.

    In the variables of a variance-exploding sampler ``z = x_t/√ᾱ_t`` this is the mean square of
    what one step from z to the image takes away, so ``(1−ᾱ_t)/ᾱ_t · ‖ε‖₂²/d`` with the guided ε:
    nothing is evaluated again.

    Attributes:
        guidance: Guidance scale of the step. A model without a null condition is stepped by ε_c.
        steps: Steps whose mean is the score; the published one is the first.

    .. note:: The direction is not stated in the official code. It follows from the exact denoiser:
        a memorized condition recalls its image whatever the noise is, so the step takes all of z
        away; otherwise the estimate follows the noise, and less of it is taken. The official loop
        over seeds keeps the last seed only; here all count.

    References:
        Webster 2023, arXiv 2305.08694 (white-box attack; official code of onestep-extraction).
    """

    cost: ClassVar[str] = "free along sampling; at the first step 1 forward evaluation a noise"

    guidance: float = 7.5
    steps: Steps | None = "first"

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        signal, sigma = coefficients(schedule_or_refuse(self, net), state.t, 1)
        eps = guided(state, self.guidance).reshape(len(state.x_t), -1).astype(jnp.float32)
        return (sigma / signal) ** 2 * jnp.mean(eps * eps, axis=1)

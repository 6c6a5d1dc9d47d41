"""Local intrinsic dimension of what the model has learned around an image.

References:
    Kamkari et al., "A Geometric View of Data Complexity: Efficient Local Intrinsic Dimension
    Estimation with Diffusion Models", NeurIPS 2024 (FLIPD); Ross et al., "A Geometric Framework for
    Understanding Memorization in Generative Models", ICLR 2025 (its use here).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.process import coefficients
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import clean_estimate, refuse_outside, schedule_or_refuse


@dataclasses.dataclass(frozen=True)
class Flipd(Detector):
    """Local intrinsic dimension by FLIPD, negated: ``−(d − σ tr(∂ε_c/∂x) + ‖ε_c‖₂²)`` at the image.

    A memorized image has few directions in which the model lets it vary: its dimension is small, so
    the published number is negated. It is evaluated at the state's estimate of the clean image,
    scaled by ``√ᾱ_τ`` and *not* noised, under a timestep τ of little noise.

    Attributes:
        noise: τ as a share of the schedule, from 0 (clean) to 1.
        probes: Random signs by which the trace is estimated, the same for all images; each costs
            one forward-mode derivative. Exact where ``∂ε/∂x`` is diagonal.
        seed: Of the probes.
        steps: Steps whose mean is the score; the last one looks at the finished image.

    .. note:: The official code takes one Gaussian probe at Stable Diffusion's size and the exact
        trace below 3,500 dimensions. Signs have the smaller variance: ``2 Σ_{i≠j} A_ij² / probes``
        with A the symmetric part. τ is memjax's choice; a network's error grows as it goes to 0.

    References:
        Kamkari et al., NeurIPS 2024 (FLIPD); Ross et al., ICLR 2025 (memorization).
    """

    cost: ClassVar[str] = "2 evaluations a state and probe; keeps to the last step"

    noise: float = 0.05
    probes: int = 4
    seed: int = 0
    steps: Steps | None = "last"

    def __post_init__(self) -> None:
        refuse_outside(self, noise=(0.0, 1.0), probes=(1, math.inf))

    @property
    def evals(self) -> int:
        return 2 * self.probes

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        schedule = schedule_or_refuse(self, net)
        x, t = clean_estimate(state, schedule, self.noise)
        x = x.astype(state.x_t.dtype)
        shape = (self.probes, *x.shape[1:])
        signs = jax.random.rademacher(jax.random.key(self.seed), shape, x.dtype)

        def one(sign: Float[Array, "*d"]) -> tuple[Array, Array]:
            along = jnp.broadcast_to(sign[None], x.shape)
            eps, moved = jax.jvp(lambda x: net.eps(x, t, state.cond), (x,), (along,))
            return _dot(eps, eps), _dot(along, moved)

        squares, traces = jax.lax.map(one, signs)
        _, sigma = coefficients(schedule, t, 1)
        return sigma * traces.mean(axis=0) - squares[0] - math.prod(x.shape[1:])


def _dot(a: Float[Array, "b *d"], b: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Returns the inner product of each example, in float32."""
    return jnp.sum((a.astype(jnp.float32) * b.astype(jnp.float32)).reshape(len(a), -1), axis=1)

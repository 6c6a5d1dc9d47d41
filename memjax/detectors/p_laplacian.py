"""The p-Laplacian of the log density at an image: how much the score points at it from all around.

References:
    Brokman et al., "Identifying Memorization of Diffusion Models through p-Laplace Analysis",
    SSVM 2025, arXiv 2505.08246.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.process import coefficients, score_from_eps
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import clean_estimate, refuse_outside, schedule_or_refuse


@dataclasses.dataclass(frozen=True)
class PLaplacian(Detector):
    """p-Laplacian of the log density, negated: ``−div(‖s‖₂^(p−2) s)`` at the image, by its flux.

    The divergence is ``d/r`` times the mean flux through a sphere of radius r. Around a memorized
    image the score points at it from everywhere and the flux is negative, so it is negated. It is
    evaluated at the state's estimate of the clean image, scaled by ``√ᾱ_τ`` and not noised, under a
    timestep τ of little noise.

    Attributes:
        p: 1 takes the directions of the score alone, 2 is the Laplacian.
        noise: τ as a share of the schedule, from 0 (clean) to 1.
        radius: r in units of the noise's length ``σ_τ √d``.
        probes: Pairs of opposite points of the sphere, the same for all images; each costs two
            evaluations.
        seed: Of the points.
        steps: Steps whose mean is the score; the last one looks at the finished image.

    .. note:: The paper works on finished images and estimates the operator from scores; τ, the
        radius and pairs of opposite points, which take away the variance of the score's mean, are
        memjax's choice.

    References:
        Brokman et al., SSVM 2025, arXiv 2505.08246.
    """

    cost: ClassVar[str] = "2 evaluations a state and pair of points; keeps to the last step"

    p: float = 1.0
    noise: float = 0.05
    radius: float = 0.5
    probes: int = 4
    seed: int = 0
    steps: Steps | None = "last"

    def __post_init__(self) -> None:
        refuse_outside(
            self, p=(0.0, math.inf), noise=(0.0, 1.0), radius=(1e-6, 1e6), probes=(1, math.inf)
        )

    @property
    def evals(self) -> int:
        return 2 * self.probes

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        schedule = schedule_or_refuse(self, net)
        x, t = clean_estimate(state, schedule, self.noise)
        dim = math.prod(x.shape[1:])
        _, sigma = coefficients(schedule, t, x.ndim)
        radius = self.radius * sigma * math.sqrt(dim)
        normal = jax.random.normal(jax.random.key(self.seed), (self.probes, dim), jnp.float32)
        points = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)

        def flux(point: Float[Array, " n"]) -> Float[Array, " b"]:
            """The outward flux at one point, per example."""
            at = (x + radius * point.reshape(1, *x.shape[1:])).astype(state.x_t.dtype)
            score = score_from_eps(schedule, t, net.eps(at, t, state.cond)).reshape(len(x), dim)
            return _power(score.astype(jnp.float32), self.p) @ point

        both = jnp.concatenate([points, -points])
        mean = jax.lax.map(flux, both).mean(axis=0)
        return -dim / radius.reshape(-1) * mean


def _power(score: Float[Array, "b n"], p: float) -> Float[Array, "b n"]:
    """Returns ``‖s‖^(p−2) s``; 0 with a gradient of 0 where s is 0."""
    squares = jnp.sum(score * score, axis=1, keepdims=True)
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.where(zero, 1.0, squares) ** (p / 2 - 1) * score)

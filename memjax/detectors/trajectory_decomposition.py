"""How much of the finished image is in each state that led to it.

References:
    Kim, Kim and Lee, "How Diffusion Models Memorize", arXiv 2509.25705.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.types import Array, Detector, Steps, Trajectory

# What is left of x_0 beside x_T, below this share of ‖x_0‖, is rounding: the two are parallel.
_PARALLEL = 1e-5


def decompose(
    x_t: Float[Array, "s b *d"], x_0: Float[Array, "b *d"], x_T: Float[Array, "b *d"]
) -> tuple[Float[Array, "s b"], Float[Array, "s b"]]:
    """Returns ``(w_0, w_T)`` of the least squares ``x_t ≈ w_0 x_0 + w_T x_T`` of each example.

    Where ``x_0`` and ``x_T`` are parallel, or one is zero, it is the solution of least norm.

    .. note:: ``x_T`` is taken out of ``x_0`` before the division: the normal equations would
        square the condition number, which float32 does not bear where the two are nearly parallel.
    """
    steps, batch = x_t.shape[:2]
    states = x_t.reshape(steps, batch, -1).astype(jnp.float32)
    clean = x_0.reshape(batch, -1).astype(jnp.float32)
    noise = x_T.reshape(batch, -1).astype(jnp.float32)
    clean2, noise2 = _dot(clean, clean), _dot(noise, noise)
    overlap = _ratio(_dot(clean, noise), noise2)
    rest = clean - overlap[:, None] * noise  # x_0 without its part along x_T
    again = _ratio(_dot(rest, noise), noise2)  # what rounding has left of it
    overlap, rest = overlap + again, rest - again[:, None] * noise
    rest2 = _dot(rest, rest)
    parallel = rest2 <= _PARALLEL**2 * clean2

    def weights(x: Float[Array, "b d"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        along_clean, along_noise = _dot(x, clean), _dot(x, noise)
        w_0 = _ratio(_dot(x, rest), rest2)
        w_T = _ratio(along_noise, noise2) - overlap * w_0
        # On one line the smallest weights are to each other as x_0 is to x_T.
        return (
            jnp.where(parallel, _ratio(along_clean, clean2 + noise2), w_0),
            jnp.where(parallel, _ratio(along_noise, clean2 + noise2), w_T),
        )

    return jax.vmap(weights)(states)


def _dot(a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, " b"]:
    return jnp.sum(a * b, axis=-1)


def _ratio(a: Float[Array, " b"], b: Float[Array, " b"]) -> Float[Array, " b"]:
    """Returns ``a / b``, and 0 where b is zero."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


@dataclasses.dataclass(frozen=True)
class TrajectoryDecomposition(Detector):
    """Trajectory decomposition: weight of the final image in each state, less the schedule's.

    Every state is fitted by least squares as ``x_t ≈ w_0 x_0 + w_T x_T``, with the final image
    ``x_0`` and the initial noise ``x_T``. The forward process has ``w_0 = √ᾱ_t``; a memorized image
    is there earlier, so that ``w_0 − √ᾱ_t`` is large.

    Attributes:
        form: ``signed`` is ``w_0 − √ᾱ_t``; ``absolute`` is ``|w_0 − √ᾱ_t|``.
        steps: Steps whose mean is the score. At the first state ``w_0`` is 0 and toward the last
            one it is 1 whatever the prompt, so the second half says little.

    .. note:: The sign belongs to guidance, which moves ``w_0`` of every prompt: compare with
        ordinary prompts at the same scale and stepper. Without guidance a perfectly recalled image
        lies on the schedule itself, up to its share ``−σ_t √ᾱ_T / σ_T`` in the noise, and an
        ordinary one may score higher.
    .. note:: A state is compared with ``ᾱ`` of the timestep at which it was denoised. Where ``x_0``
        and ``x_T`` are parallel the fit is the one of least norm. The official code also fits the
        noise predictions and keeps the residual of the fit; both are left out.

    References:
        Kim, Kim and Lee, arXiv 2509.25705 (decomposition of intermediate latents).
    """

    domain: ClassVar[Literal["trajectory"]] = "trajectory"
    cost: ClassVar[str] = "no evaluations; keeps the states of a whole trajectory"
    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    differentiable: ClassVar[bool] = False

    form: Literal["signed", "absolute"] = "signed"
    steps: Steps | None = "half"

    def __call__(self, seen: Trajectory, net: Denoiser) -> Float[Array, "s b"]:
        del net
        w_0, _ = decompose(seen.x_t, seen.x_end, seen.x_t[0])
        excess = w_0 - seen.signal[:, None]
        return jnp.abs(excess) if self.form == "absolute" else excess

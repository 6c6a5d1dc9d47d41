"""Size of what the condition adds at much noise, and its direction at little noise.

References:
    Asthana and Belagiannis, "Detecting and Mitigating Memorization in Diffusion Models through
    Anisotropy of the Log-Probability", ICLR 2026, arXiv 2601.20642.
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import (
    null_cond_or_refuse,
    null_or_refuse,
    refuse_outside,
    schedule_or_refuse,
    timestep_at,
)


@dataclasses.dataclass(frozen=True)
class Anisotropy(Detector):
    """Magnitude plus alignment with the unconditional score, ``g₁ ‖Δ_t‖₂ + g₂ cos(ε_u, Δ)_τ``.

    ``Δ = ε_c − ε_u``. The magnitude is that of the state; the cosine is evaluated at the *same*
    noisy state under a timestep τ of little noise, as published: no denoising takes place.

    Attributes:
        magnitude: Weight ``g₁`` of the magnitude.
        alignment: Weight ``g₂`` of the cosine.
        low: τ as a share of the schedule, from 0 (clean) to 1; 0.041 is t = 41 of 1000.
        over: What the cosine is taken over: the whole ``state``, or the last axis of each
            ``pixel`` (its channels) with the mean over pixels after it.
        rms: Divide the magnitude by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score.

    .. note:: Published weights (1 and 2 for Stable Diffusion 1.4) hold for one model. Fit them by
        :func:`fit_weights` on a split that is not scored afterwards; the official code has set them
        by hand for each model.
    .. note:: The official code takes the cosine over the four channels of each latent pixel. Of an
        image with one channel that is a mere sign, so the whole state is the default. A Δ below
        float32 rounding of ε_u has no direction: its cosine is 0.

    References:
        Asthana and Belagiannis, ICLR 2026, arXiv 2601.20642.
    """

    cost: ClassVar[str] = "2 evaluations a state: both halves at little noise"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    evals: ClassVar[int] = 2
    null_evals: ClassVar[int] = 1

    magnitude: float = dataclasses.field(default=1.0, metadata={"signed": True})
    alignment: float = dataclasses.field(default=2.0, metadata={"signed": True})
    low: float = 0.041
    over: Literal["state", "pixel"] = "state"
    rms: bool = False
    steps: Steps | None = "first"

    def __post_init__(self) -> None:
        refuse_outside(self, low=(0.0, 1.0))

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        delta = state.eps_cond - null_or_refuse(state.eps_uncond)
        null_cond_or_refuse(self, net)
        t = timestep_at(schedule_or_refuse(self, net), self.low, state.t)
        eps_cond, eps_uncond = net.pair(state.x_t, t, state.cond)
        shape = (len(state.x_t), 1, -1)
        if self.over == "pixel":
            shape = (len(state.x_t), -1, state.x_t.shape[-1])
        cosine = _cosine(eps_uncond.reshape(shape), (eps_cond - eps_uncond).reshape(shape))
        norm = per_example_norm(delta, rms=self.rms)
        return self.magnitude * norm + self.alignment * cosine.mean(axis=1)


def _cosine(of: Float[Array, "b n c"], delta: Float[Array, "b n c"]) -> Float[Array, "b n"]:
    """Returns the cosine over the last axis, in float32; 0 where one of them has no direction."""
    of, delta = of.astype(jnp.float32), delta.astype(jnp.float32)
    ours, its = jnp.sum(of * of, axis=-1), jnp.sum(delta * delta, axis=-1)
    none = (its <= 1e-12 * ours) | (ours == 0)
    length = jnp.sqrt(jnp.where(none, 1.0, ours)) * jnp.sqrt(jnp.where(none, 1.0, its))
    return jnp.where(none, 0.0, jnp.sum(of * delta, axis=-1) / length)


def fit_weights(
    magnitudes: Float[np.ndarray, " n"],
    cosines: Float[np.ndarray, " n"],
    memorized: Bool[np.ndarray, " n"],
) -> tuple[float, float]:
    """Returns ``(magnitude, alignment)``: the slopes of a logistic regression on a labeled split.

    Args:
        magnitudes: Scores of ``Anisotropy(magnitude=1, alignment=0)``.
        cosines: Scores of ``Anisotropy(magnitude=0, alignment=1)``.
        memorized: Which of these prompts are known to be memorized; both kinds must occur.

    Raises:
        ValueError: If the lengths differ, a score is not finite, or one kind is missing.

    .. note:: Both scores are standardized and the slopes penalized by ``½‖w‖²``, so that a split
        that separates perfectly has finite weights. Both kinds count alike, however many there are.
    """
    from sklearn.linear_model import LogisticRegression

    features = [np.asarray(values, np.float64).ravel() for values in (magnitudes, cosines)]
    labels = np.asarray(memorized, bool).ravel()
    lengths = [len(values) for values in (*features, labels)]
    if len(set(lengths)) > 1 or not np.all(np.isfinite(np.concatenate(features))):
        raise ValueError(
            f"fit_weights got {lengths[0]} magnitudes, {lengths[1]} cosines and {lengths[2]} "
            "labels, expected as many of each and all finite: give one of each a prompt."
        )
    if labels.all() or not labels.any():
        raise ValueError(
            f"fit_weights got {int(labels.sum())} memorized prompts of {len(labels)}, expected "
            "some that are and some that are not."
        )
    rows = np.stack(features, axis=1)
    spread = rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)  # a constant tells nothing: its slope is 0
    model = LogisticRegression(class_weight="balanced", tol=1e-8)
    model.fit((rows - rows.mean(axis=0)) / spread, labels)
    magnitude, alignment = model.coef_[0] / spread
    return float(magnitude), float(alignment)

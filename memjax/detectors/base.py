"""What all detectors share: their result, step windows, thresholds, and when to refuse."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull, guide, null_or_refuse
from memjax.core.process import coefficients, x0_from_eps
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Detector, State, Steps
from memjax.sampling import step_window

__all__ = [
    "Detection",
    "Steps",
    "clean_estimate",
    "fit_threshold",
    "guided",
    "null_cond_or_refuse",
    "null_or_refuse",
    "reduce_steps",
    "refuse_outside",
    "refuse_undifferentiable",
    "schedule_or_refuse",
    "step_window",
    "timestep_at",
]


class Detection(NamedTuple):
    """All values of some detectors on some prompts; every reduction comes after.

    Attributes:
        statistics: Detector → raw statistic per prompt, generation and step that was run; NaN at
            steps where it was not evaluated.
        images: Final states ``[prompt, generation, ...]``, or None where no image was finished.
        forward_evals: Network evaluations spent, counted per example.
        dim: Number of dimensions of one state, for the RMS form ``norm / √dim``.
        windows: Detector → the steps whose mean is its score; all of them where it is left out.
    """

    statistics: Mapping[str, Float[np.ndarray, "p g s"]]
    images: Float[np.ndarray, "p g *d"] | None
    forward_evals: int
    dim: int
    windows: Mapping[str, Steps | None] = {}

    @property
    def name(self) -> str:
        """The first detector, which is meant where none is named."""
        return next(iter(self.statistics))

    @property
    def per_step(self) -> Float[np.ndarray, "p g s"]:
        """The statistic of the first detector."""
        return self.statistics[self.name]

    def scores(
        self, steps: Steps | None = None, *, rms: bool = False, name: str | None = None
    ) -> Float[np.ndarray, " p"]:
        """Returns one score per prompt: the mean over generations and steps.

        Args:
            steps: The window; default the detector's own.
            rms: Divide by ``√dim``.
            name: Which detector; default the first.
        """
        return self.per_generation(steps, rms=rms, name=name).mean(axis=1)

    def per_generation(
        self, steps: Steps | None = None, *, rms: bool = False, name: str | None = None
    ) -> Float[np.ndarray, "p g"]:
        """Returns one score per prompt and generation: the mean over the chosen steps."""
        name = self.name if name is None else name
        steps = self.windows.get(name) if steps is None else steps
        scores = reduce_steps(self.statistics[name], "all" if steps is None else steps)
        return scores / math.sqrt(self.dim) if rms else scores


def refuse_undifferentiable(detector: Detector) -> None:
    """Refuses a detector that has no gradient with respect to a condition at one state.

    Raises:
        ValueError: Naming it and the way out.
    """
    if detector.domain != "state" or not detector.differentiable:
        what = f"looks at {detector.domain}" if detector.domain != "state" else "has no gradient"
        raise ValueError(
            f"{type(detector).__name__} {what}, expected a differentiable statistic of one state: "
            "take one such as NoiseMagnitude."
        )


def null_cond_or_refuse(detector: Detector, net: Denoiser) -> Cond:
    """Returns the null condition, for a detector that evaluates that half anew.

    Raises:
        ValueError: If there is none, or only its prediction at one state is known.
    """
    if net.null_cond is None or isinstance(net.null_cond, CachedNull):
        raise ValueError(
            f"{type(detector).__name__} evaluates the unconditional half anew, and only its "
            "prediction at one state is known: give the null condition itself as null_cond, too."
        )
    return net.null_cond


def schedule_or_refuse(detector: Detector, net: Denoiser, instead: str = "") -> NoiseSchedule:
    """Returns the noise schedule.

    Args:
        detector: Who needs it.
        net: The network.
        instead: What else helps than to give the schedule.

    Raises:
        ValueError: If there is none.
    """
    if net.schedule is None:
        ways = f"give schedule=, or {instead}" if instead else "give schedule="
        raise ValueError(
            f"{type(detector).__name__} needs σ_t, and no noise schedule is given: {ways}."
        )
    return net.schedule


def guided(state: State, scale: float) -> Float[Array, "b *d"]:
    """Returns the guided prediction at a state; ε_c where the model has no null condition."""
    if state.eps_uncond is None:
        return state.eps_cond
    return guide(state.eps_uncond, state.eps_cond, scale)


def timestep_at(schedule: NoiseSchedule, share: float, t: Int[Array, " b"]) -> Int[Array, " b"]:
    """Returns the timestep at a share of the schedule, from 0 (clean) to 1, one for each of t."""
    last = schedule.num_timesteps - 1
    return jnp.full_like(t, min(round(share * schedule.num_timesteps), last))


def clean_estimate(
    state: State, schedule: NoiseSchedule, share: float
) -> tuple[Float[Array, "b *d"], Int[Array, " b"]]:
    """Returns a state's estimate of the clean image, scaled to a little noise, and the timestep.

    That is ``√ᾱ_τ x̂0`` without noise, with ``x̂0`` from ε_c and τ at a share of the schedule.
    """
    t = timestep_at(schedule, share, state.t)
    signal, _ = coefficients(schedule, t, state.x_t.ndim)
    return signal * x0_from_eps(schedule, state.x_t, state.t, state.eps_cond), t


def refuse_outside(detector: Detector, **bounds: tuple[float, float]) -> None:
    """Refuses fields of a detector outside the closed range ``(low, high)``.

    Raises:
        ValueError: Naming detector, field and value.
    """
    for field, (low, high) in bounds.items():
        value = getattr(detector, field)
        if not low <= value <= high:
            said = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ValueError(f"{type(detector).__name__}: {field} is {value}, expected {said}.")


def reduce_steps(
    per_step: Float[np.ndarray, "p g s"], steps: Steps = "all"
) -> Float[np.ndarray, "p g"]:
    """Returns the mean over a window of steps, per prompt and generation."""
    start, stop = step_window(steps, per_step.shape[-1])
    return np.asarray(per_step[..., start:stop], np.float64).mean(axis=-1)


def fit_threshold(scores: Float[np.ndarray, " n"], target_fpr: float = 0.01) -> float:
    """Returns the smallest threshold with ``mean(scores > threshold) ≤ target_fpr``.

    Args:
        scores: Scores of prompts known not to be memorized (higher = more memorized).
        target_fpr: Accepted share of false alarms, in [0, 1).

    Raises:
        ValueError: If there is no score, one is not finite, or the rate is out of range.

    .. note:: Flag a prompt when its score is *greater than* the threshold. Published thresholds
        hold for one model and latent size only, so memjax hard-codes none.
    """
    values = np.sort(np.asarray(scores, np.float64).ravel())[::-1]
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(
            f"fit_threshold got {values.size} scores, expected at least one and all finite: "
            "give the scores of prompts that are not memorized."
        )
    if not 0.0 <= target_fpr < 1.0:
        raise ValueError(f"target_fpr is {target_fpr}, expected a rate in [0, 1).")
    rates = np.arange(values.size) / values.size
    return float(values[np.searchsorted(rates, target_fpr, side="right") - 1])

"""Noise schedules: built in float64 NumPy, cast once, passed as traced arrays."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.core.types import Array

SCHEDULES = ("linear", "scaled_linear", "cosine")


class NoiseSchedule(NamedTuple):
    """A variance-preserving schedule ``x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε``.

    Attributes:
        alphas_bar: ``ᾱ_t``, cumulative product of ``1 − β``; decreasing.
        sqrt_alphas_bar: ``√ᾱ_t``.
        sigmas: ``√(1−ᾱ_t)``, taken in float64 so that it is exact at the clean end.
    """

    alphas_bar: Float[Array, " T"]
    sqrt_alphas_bar: Float[Array, " T"]
    sigmas: Float[Array, " T"]

    @property
    def num_timesteps(self) -> int:
        return self.alphas_bar.shape[0]


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """The hashable recipe of a schedule.

    Attributes:
        name: ``linear`` (β linear in t; Ho et al. 2020, arXiv 2006.11239 §4), ``scaled_linear``
            (√β linear in t; Stable Diffusion, arXiv 2112.10752) or ``cosine`` (ᾱ a squared cosine;
            Nichol and Dhariwal 2021, arXiv 2102.09672, Eq. 17; ``beta_*`` unused).
        num_timesteps: T, at least 2.
        beta_start: First β, in (0, 1).
        beta_end: Last β, in (beta_start, 1).
    """

    name: str = "linear"
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"schedule name is {self.name!r}, expected one of {SCHEDULES}.")
        if self.num_timesteps < 2:
            raise ValueError(f"num_timesteps is {self.num_timesteps}, expected at least 2.")
        if not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ValueError(
                f"beta_start={self.beta_start}, beta_end={self.beta_end}: "
                "expected 0 < beta_start <= beta_end < 1."
            )

    def betas(self) -> Float[np.ndarray, " T"]:
        """Returns β_t in float64."""
        n = self.num_timesteps
        if self.name == "linear":
            return np.linspace(self.beta_start, self.beta_end, n, dtype=np.float64)
        if self.name == "scaled_linear":
            root = np.linspace(math.sqrt(self.beta_start), math.sqrt(self.beta_end), n)
            return root.astype(np.float64) ** 2
        edges = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - edges[1:] / edges[:-1], 0.999)

    def build(self) -> NoiseSchedule:
        """Returns the schedule's arrays (NumPy float32: no backend is touched)."""
        alphas_bar = np.cumprod(1.0 - self.betas())
        return NoiseSchedule(
            *(
                a.astype(np.float32)
                for a in (alphas_bar, np.sqrt(alphas_bar), np.sqrt(1.0 - alphas_bar))
            )
        )

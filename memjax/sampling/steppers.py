"""DDPM, DDIM and DPM-Solver++(2M) as pure step functions over one grid of timesteps."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.names import SPACINGS
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array


def timesteps(
    num_timesteps: int, num_steps: int, spacing: str = "leading", steps_offset: int = 0
) -> Int[np.ndarray, " s"]:
    """Returns the timesteps a sampler visits, most noise first.

    Args:
        num_timesteps: T of the schedule.
        num_steps: How many to visit, in [1, T]; below T for the open spacings.
        spacing: ``leading`` (multiples of T // S), ``trailing`` (ends on T−1) or ``linspace``
            (both ends); Lin et al. 2023, arXiv 2305.08891, Table 2. ``leading_open`` and
            ``linspace_open`` are the grids of one step more without their cleanest timestep, from
            which DPM-Solver++ would only step to (almost) itself: what diffusers' multistep
            solver calls ``leading`` and ``linspace``.
        steps_offset: Added for ``leading`` and ``leading_open``; Stable Diffusion uses 1.

    Raises:
        ValueError: If ``num_steps`` or ``spacing`` is out of range.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing is {spacing!r}, expected one of {SPACINGS}.")
    closed = spacing.removesuffix("_open")
    most = num_timesteps if spacing == closed else num_timesteps - 1
    if not 1 <= num_steps <= most:
        which = "schedule's" if spacing == closed else f"{spacing} schedule's"
        raise ValueError(f"num_steps is {num_steps}, expected between 1 and the {which} {most}.")
    if spacing != closed:
        return timesteps(num_timesteps, num_steps + 1, closed, steps_offset)[:-1]
    if spacing == "leading":
        grid = np.arange(num_steps) * (num_timesteps // num_steps) + steps_offset
        if grid[-1] >= num_timesteps:
            raise ValueError(
                f"steps_offset={steps_offset} puts the first timestep at {grid[-1]}, expected "
                f"below {num_timesteps}: use a smaller offset."
            )
        return grid[::-1].astype(np.int32)
    if spacing == "trailing":
        return (
            np.round(num_timesteps - np.arange(num_steps) * num_timesteps / num_steps) - 1
        ).astype(np.int32)
    return np.linspace(0, num_timesteps - 1, num_steps).round()[::-1].astype(np.int32)


class GridStep(NamedTuple):
    """One step's coefficients: from ``(signal, sigma)`` to the less noisy ``(…_next)``."""

    t: Int[Array, ""]
    signal: Float[Array, ""]
    sigma: Float[Array, ""]
    signal_next: Float[Array, ""]
    sigma_next: Float[Array, ""]
    is_last: Array


def make_grid(
    schedule: NoiseSchedule, steps: Int[np.ndarray, " s"], *, set_alpha_to_one: bool = True
) -> GridStep:
    """Gathers the coefficients of all steps, ready to be scanned over.

    Args:
        schedule: The noise schedule.
        steps: Decreasing timesteps, of :func:`timesteps`.
        set_alpha_to_one: End on the exactly clean image; Stable Diffusion's configuration ends on
            ``ᾱ_0`` instead.
    """
    signal = jnp.asarray(schedule.sqrt_alphas_bar)[steps]
    sigma = jnp.asarray(schedule.sigmas)[steps]
    one, zero = jnp.ones((1,), signal.dtype), jnp.zeros((1,), signal.dtype)
    last_signal = one if set_alpha_to_one else jnp.asarray(schedule.sqrt_alphas_bar)[:1]
    last_sigma = zero if set_alpha_to_one else jnp.asarray(schedule.sigmas)[:1]
    return GridStep(
        t=jnp.asarray(steps),
        signal=signal,
        sigma=sigma,
        signal_next=jnp.concatenate([signal[1:], last_signal]),
        sigma_next=jnp.concatenate([sigma[1:], last_sigma]),
        is_last=jnp.arange(len(steps)) == len(steps) - 1,
    )


class Stepper(Protocol):
    """A sampler as a pair of pure functions. Instances are frozen and hash by value."""

    def init(self, x_T: Float[Array, "b *d"]) -> Any: ...

    def step(
        self,
        carry: Any,
        grid: GridStep,
        x_t: Float[Array, "b *d"],
        eps: Float[Array, "b *d"],
        x0: Float[Array, "b *d"],
        key: Array | None,
    ) -> tuple[Any, Float[Array, "b *d"]]: ...


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Deterministic DDIM, ``x' = √ᾱ' x0 + √(1−ᾱ') ε`` (η = 0).

    References:
        Song et al. 2021, arXiv 2010.02502, Eq. 12.
    """

    def init(self, x_T):
        del x_T
        return ()

    def step(self, carry, grid, x_t, eps, x0, key):
        del x_t, key
        return carry, grid.signal_next * x0 + grid.sigma_next * eps


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Ancestral sampling with the posterior variance (``fixed_small``).

    References:
        Ho et al. 2020, arXiv 2006.11239, Eqs. 6-7.
    """

    def init(self, x_T):
        del x_T
        return ()

    def step(self, carry, grid, x_t, eps, x0, key):
        if key is None:
            raise ValueError("the DDPM stepper draws noise: give sample(..., key=jax.random.key).")
        del eps
        alpha = (grid.signal / grid.signal_next) ** 2
        variance = grid.sigma**2
        next_variance = grid.sigma_next**2
        beta = variance - alpha * next_variance  # 1 - alpha, without its cancellation near t=0
        mean = (grid.signal_next * beta / variance) * x0 + (
            jnp.sqrt(alpha) * next_variance / variance
        ) * x_t
        std = jnp.sqrt(next_variance / variance * beta)
        noise = jax.random.normal(key, x_t.shape, x_t.dtype)
        return carry, mean + jnp.where(grid.is_last, 0.0, std) * noise


class _Multistep(NamedTuple):
    x0: Float[Array, "b *d"]
    log_snr: Float[Array, ""]
    started: Array


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M:
    """Second-order multistep DPM-Solver++ in its midpoint form; first order at both ends.

    References:
        Lu et al. 2022, arXiv 2211.01095, Algorithm 2.
    """

    def init(self, x_T):
        return _Multistep(jnp.zeros_like(x_T), jnp.zeros((), x_T.dtype), jnp.zeros((), bool))

    def step(self, carry, grid, x_t, eps, x0, key):
        del eps, key
        log_snr = jnp.log(grid.signal / grid.sigma)
        end = grid.sigma_next <= 0
        h = jnp.log(grid.signal_next / jnp.where(end, 1.0, grid.sigma_next)) - log_snr
        decay = grid.sigma_next * grid.signal / (grid.signal_next * grid.sigma)  # exp(-h)
        second = carry.started & ~end
        ratio = jnp.where(second, (log_snr - carry.log_snr) / h, 1.0)
        slope = jnp.where(second, 0.5 / ratio, 0.0) * (x0 - carry.x0)
        x_next = grid.sigma_next / grid.sigma * x_t - grid.signal_next * (decay - 1.0) * (
            x0 + slope
        )
        return _Multistep(x0, log_snr, jnp.ones((), bool)), x_next


_STEPPERS: dict[str, Callable[[], Stepper]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "dpm-solver++": DPMSolverPP2M,
}


def make_stepper(name: str) -> Stepper:
    """Returns the stepper called ``ddim``, ``ddpm`` or ``dpm-solver++``."""
    if name not in _STEPPERS:
        raise ValueError(f"stepper is {name!r}, expected one of {tuple(_STEPPERS)}.")
    return _STEPPERS[name]()

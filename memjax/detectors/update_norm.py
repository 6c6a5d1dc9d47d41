"""The length of each step of the sampler, and whether it stays in the region of ordinary prompts.

References:
    "Broken Memories: Detecting and Mitigating Memorization in Diffusion Models with Degraded
    Generations", KDD 2026, arXiv 2605.22050.
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, Steps, Trajectory


@dataclasses.dataclass(frozen=True)
class UpdateNorm(Detector):
    """Latent update norm, ``‖x_{t−1} − x_t‖₂`` of each step, or how far it leaves a stable region.

    Without a region it is the norm itself. With ``low`` and ``high`` from
    :func:`stability_region` it is ``max(low_k − norm, norm − high_k)``: positive outside the region
    of step k, on whichever side.

    Attributes:
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        low: Lower bound of each step, in the same unit as the norm; empty: none.
        high: Upper bound of each step; empty: none.
        steps: Steps whose mean is the score.

    .. note:: Published, in the abstract, are empirical stability regions of the latent update norm
        and a test against them at each step; how the region is made was not available, and there
        is no official code. A quantile band of ordinary prompts is memjax's reading. So is the raw
        norm as score where no region is given: guidance adds ``s (ε_c − ε_u)`` to each step, and an
        unstable step is a long one. Its sign is not guaranteed: where memorized trajectories settle
        early their late steps are shorter, which only the region sees.

    References:
        Broken Memories, KDD 2026, arXiv 2605.22050, abstract.
    """

    domain: ClassVar[Literal["trajectory"]] = "trajectory"
    cost: ClassVar[str] = "no evaluations; keeps the states that are run"
    differentiable: ClassVar[bool] = False
    is_norm: ClassVar[bool] = True

    rms: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    steps: Steps | None = None

    def __call__(self, seen: Trajectory, net: Denoiser) -> Float[Array, "s b"]:
        del net
        steps, batch = seen.x_t.shape[:2]
        after = jnp.concatenate([seen.x_t[1:], seen.x_end[None]]).astype(jnp.float32)
        moved = (after - seen.x_t.astype(jnp.float32)).reshape(steps * batch, -1)
        norm = per_example_norm(moved, rms=self.rms).reshape(steps, batch)
        outside = []
        if self.low:
            outside.append(_bound("low", self.low, steps) - norm)
        if self.high:
            outside.append(norm - _bound("high", self.high, steps))
        return jnp.stack(outside).max(axis=0) if outside else norm


def _bound(name: str, values: tuple[float, ...], steps: int) -> Float[Array, "s 1"]:
    """Returns the bounds of the steps that are run, which may end before the region does."""
    if len(values) < steps:
        raise ValueError(
            f"UpdateNorm has {len(values)} {name} bounds, expected one for each of the {steps} "
            "steps that are run: fit the region on the same grid."
        )
    return jnp.asarray(values[:steps], jnp.float32)[:, None]


def stability_region(
    norms: Float[np.ndarray, "... s"], coverage: float = 0.98
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns ``(low, high)`` of each step: the central quantiles of ordinary prompts.

    Args:
        norms: Update norms of prompts known not to be memorized, steps last.
        coverage: Share of them inside the region at each step, in (0, 1].

    Raises:
        ValueError: If there are no norms, one is not finite, or the share is out of range.
    """
    values = np.asarray(norms, np.float64)
    values = values.reshape(-1, values.shape[-1]) if values.size else values
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(
            f"stability_region got {values.size} norms, expected at least one and all finite: give "
            "those of prompts that are not memorized."
        )
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage is {coverage}, expected a share in (0, 1].")
    tail = (1.0 - coverage) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return tuple(map(float, low)), tuple(map(float, high))

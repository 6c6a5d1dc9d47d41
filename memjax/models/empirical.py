"""Closed-form denoisers: perfect memorizers and perfect generalizers, to test everything else on.

Every one is the exact ε of a mixture of Gaussians noised by the forward process. Component i has
mean ``y_i``, bandwidth ``h_i`` and, in ``x_t``, variance ``v_i = ᾱ_t h_i² + 1 − ᾱ_t``:

    w_i ∝ π_i v_i^(−d/2) exp(−‖x_t − √ᾱ_t y_i‖² / (2 v_i)),
    ε = √(1−ᾱ_t) Σ_i w_i (x_t − √ᾱ_t y_i) / v_i.

With ``h = 0`` that is the minimizer of the training loss over all functions: it can only return
training images. Memory is batch × components × pixels.

References:
    Gu et al. 2023, arXiv 2310.02664, §2 (the optimal denoiser); Karras et al. 2022,
    arXiv 2206.00364, appendix B.3.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.process import coefficients
from memjax.core.schedules import NoiseSchedule, ScheduleSpec
from memjax.core.types import Array, TokenCond


def mixture_eps(
    schedule: NoiseSchedule,
    means: Float[Array, "n *d"],
    bandwidths: Float[Array, " n"],
    log_prior: Float[Array, "b n"],
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
) -> Float[Array, "b *d"]:
    """Returns the exact ε of the noised mixture (formula above).

    Args:
        schedule: The forward process.
        means: Component means.
        bandwidths: Component standard deviations at t → clean; zero for a point mass.
        log_prior: Log-weights for each example, not necessarily normalized; −inf excludes.
        x_t: Noisy states.
        t: Timesteps.
    """
    x, y = x_t.reshape(x_t.shape[0], -1), means.reshape(means.shape[0], -1)
    signal, noise = coefficients(schedule, t, 2)
    variance = (signal * bandwidths[None, :]) ** 2 + noise**2
    offsets = x[:, None, :] - signal[:, :, None] * y[None]
    squares = jnp.sum(offsets * offsets, axis=-1)
    logits = log_prior - squares / (2 * variance) - 0.5 * y.shape[1] * jnp.log(variance)
    weights = jax.nn.softmax(logits, axis=-1) / variance
    eps = noise * jnp.einsum("bn,bnd->bd", weights, offsets, precision="highest")
    return eps.reshape(x_t.shape)


def _log_mask(mask: Bool[Array, "b n"]) -> Float[Array, "b n"]:
    return jnp.where(mask, 0.0, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class EmpiricalDenoiser:
    """The perfect memorizer: ε of the training set itself.

    ``params`` is the images ``[n, *d]``; ``cond`` is a mask ``[b, n]``, True for the images the
    condition allows (at least one): all for the unconditional half, one for a memorized prompt.
    """

    spec: ScheduleSpec

    def __call__(
        self,
        params: Float[Array, "n *d"],
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: Bool[Array, "b n"],
    ) -> Float[Array, "b *d"]:
        bandwidths = jnp.zeros(params.shape[0])
        return mixture_eps(self.spec.build(), params, bandwidths, _log_mask(cond), x_t, t)

    @staticmethod
    def null_cond(num_images: int) -> Bool[np.ndarray, "1 n"]:
        """Returns the unconditional mask, with batch axis 1."""
        return np.ones((1, num_images), bool)


@dataclasses.dataclass(frozen=True)
class GaussianMixtureDenoiser:
    """The ground truth that never memorizes: a Gaussian of ``bandwidth`` about each mean.

    ``params`` is the means ``[n, *d]``, ``cond`` a mask ``[b, n]`` as in
    :class:`EmpiricalDenoiser`, which is the limit of bandwidth zero.
    """

    spec: ScheduleSpec
    bandwidth: float

    def __call__(
        self,
        params: Float[Array, "n *d"],
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: Bool[Array, "b n"],
    ) -> Float[Array, "b *d"]:
        bandwidths = jnp.full(params.shape[0], self.bandwidth)
        return mixture_eps(self.spec.build(), params, bandwidths, _log_mask(cond), x_t, t)


class SoftData(NamedTuple):
    """Images with the keys by which a condition calls them."""

    images: Float[Array, "n *d"]
    keys: Float[Array, "n k"]


@dataclasses.dataclass(frozen=True)
class SoftCondDenoiser:
    """A memorizer under a differentiable condition: ``π_i ∝ exp(β ⟨e, k_i⟩)``.

    ``cond`` is a :class:`~memjax.core.types.TokenCond` whose real tokens add up to ``e``:
    ``e = 0`` is unconditional, ``e = k_j`` with large β recalls image j. Exactly,
    ``∂x̂0/∂e = β Cov_w(y, k)``, which checks any gradient with respect to a condition.

    Attributes:
        spec: The forward process.
        beta: Sharpness β of the recall.
    """

    spec: ScheduleSpec
    beta: float = 10.0

    def __call__(
        self,
        params: SoftData,
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: TokenCond,
    ) -> Float[Array, "b *d"]:
        e = jnp.sum(cond.embeddings * cond.mask[:, :, None], axis=1)
        log_prior = self.beta * jnp.einsum("bk,nk->bn", e, params.keys, precision="highest")
        bandwidths = jnp.zeros(params.images.shape[0])
        return mixture_eps(self.spec.build(), params.images, bandwidths, log_prior, x_t, t)

    @staticmethod
    def null_cond(dim: int, num_tokens: int = 1) -> TokenCond:
        """Returns ``e = 0``, with batch axis 1."""
        return TokenCond(np.zeros((1, num_tokens, dim), np.float32), np.ones((1, num_tokens), bool))


class PlantedData(NamedTuple):
    """A generalizing mixture with images planted into it.

    Attributes:
        images: The planted images.
        component: Index of the center each image belongs to.
        centers: Means of the generalizing mixture.
    """

    images: Float[Array, "m *d"]
    component: Int[Array, " m"]
    centers: Float[Array, "k *d"]


class PlantedCond(NamedTuple):
    """Which image a prompt belongs to, and how strongly it is memorized.

    Attributes:
        row: Index into the planted images; −1 for the unconditional half.
        strength: Probability π in (0, 1) that the exact conditional returns the image itself.
    """

    row: Int[Array, " b"]
    strength: Float[Array, " b"]


@dataclasses.dataclass(frozen=True)
class PlantedOracle:
    """A generalizer that memorized some prompts to a chosen degree.

    Unconditional: the mixture of all centers. Conditional on image j: with probability π a
    near-point at ``y_j``, otherwise the center it belongs to.

    Attributes:
        spec: The forward process.
        bandwidth: Standard deviation h of the centers.
        point: Standard deviation of the near-point.
    """

    spec: ScheduleSpec
    bandwidth: float = 0.3
    point: float = 0.01

    def __call__(
        self,
        params: PlantedData,
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: PlantedCond,
    ) -> Float[Array, "b *d"]:
        num_images, num_centers = params.images.shape[0], params.centers.shape[0]
        bandwidths = np.repeat([self.point, self.bandwidth], [num_images, num_centers])
        means = jnp.concatenate([params.images, params.centers])
        log_prior = self._log_prior(params, cond)
        return mixture_eps(
            self.spec.build(), means, jnp.asarray(bandwidths, jnp.float32), log_prior, x_t, t
        )

    def _log_prior(self, params: PlantedData, cond: PlantedCond) -> Float[Array, "b n"]:
        num_images, num_centers = params.images.shape[0], params.centers.shape[0]
        null = cond.row[:, None] < 0
        row = jnp.maximum(cond.row, 0)
        point = jax.nn.one_hot(row, num_images) * cond.strength[:, None]
        own = jax.nn.one_hot(params.component[row], num_centers) * (1 - cond.strength)[:, None]
        everywhere = jnp.full((1, num_centers), 1.0 / num_centers)
        prior = jnp.concatenate(
            [jnp.where(null, 0.0, point), jnp.where(null, everywhere, own)], axis=1
        )
        positive = prior > 0
        return jnp.where(positive, jnp.log(jnp.where(positive, prior, 1.0)), -jnp.inf)

    @staticmethod
    def null_cond() -> PlantedCond:
        """Returns the unconditional condition, with batch axis 1."""
        return PlantedCond(np.full(1, -1, np.int32), np.full(1, 0.5, np.float32))

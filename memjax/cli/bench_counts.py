"""How many operations detection and mitigation take: what their rates are measured in."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.condition import embeddings_of, repeat_cond, with_embeddings
from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull
from memjax.core.types import Array, Cond, EpsFn, Params
from memjax.detectors import NoiseMagnitude
from memjax.runtime.flops import count_flops


def detection_flops(
    eps_fn: EpsFn, params: Params, noise: Float[np.ndarray, "g *d"], row: Cond, prompts: int
) -> float:
    """Returns the operations of a first-step detection with shared initial noise.

    ``g`` forwards a prompt, and ``g`` for the unconditional half of all of them.

    Args:
        eps_fn: The network.
        params: Its weights.
        noise: Initial noises.
        row: The condition of one prompt.
        prompts: Prompts.
    """
    rows = repeat_cond(row, len(noise))
    return (prompts + 1) * count_flops(eps_fn, params, noise, _steps(noise), rows)


def mitigation_flops(
    eps_fn: EpsFn, params: Params, noise: Float[np.ndarray, "g *d"], row: Cond, iterations: int
) -> float:
    """Returns the operations of optimising one prompt's embedding at the first step.

    A value and its gradient at each iteration, and the value once more at the end. By hand, since
    :func:`count_flops` takes the body of a ``while`` once. The unconditional half, once for all
    prompts, comes on top: as much as :func:`detection_flops` of no prompt.

    Args:
        eps_fn: The network.
        params: Its weights.
        noise: Initial noises.
        row: The condition of the prompt.
        iterations: Updates of the embedding.
    """

    def loss(e: Array, weights: Params) -> Array:
        rows = repeat_cond(with_embeddings(row, e), len(noise))
        net, null = Denoiser(eps_fn, weights), CachedNull(jnp.zeros_like(noise))
        return NoiseMagnitude()(net.at(noise, _steps(noise), rows, cached=null), net).mean()

    start = embeddings_of(row)
    value = count_flops(loss, start, params)
    return iterations * count_flops(jax.value_and_grad(loss), start, params) + value


def _steps(noise: Float[np.ndarray, "g *d"]) -> Array:
    return jnp.zeros((len(noise),), jnp.int32)

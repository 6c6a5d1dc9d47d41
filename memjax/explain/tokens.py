"""Token-wise significance: the gradient of the magnitude with respect to each token's embedding.

References:
    Wen et al., ICLR 2024, Eq. 4.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.condition import (
    embeddings_of,
    num_rows,
    repeat_cond,
    token_mask,
    with_embeddings,
)
from memjax.core.guidance import CachedNull
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, Statistic, StepInfo
from memjax.detectors import NoiseMagnitude
from memjax.sampling import sample

ATTRIBUTIONS = ("grad_norm", "grad_x_input", "integrated")
_INTEGRATION_POINTS = 8


class StatesTap(NamedTuple):
    """A tap that keeps each step's state, timestep and unconditional prediction."""

    def __call__(self, info: StepInfo):
        return info.x_t, info.t, info.eps_uncond


def token_significance(
    eps_fn: EpsFn,
    params: Params,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    cond: Cond,
    null_cond: Cond,
    *,
    statistic: Statistic | None = None,
    attribution: str = "grad_norm",
) -> Float[Array, "b l"]:
    """Returns how strongly each token moves the statistic at one state.

    ``grad_norm`` is the paper's ``‖∂m/∂e_i‖₂``; ``grad_x_input`` is ``|⟨∂m/∂e_i, e_i⟩|``;
    ``integrated`` is ``|⟨mean_a ∂m/∂e_i(a·e), e_i⟩|`` over a path of 8 midpoints from zero.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        x_t: States.
        t: Their timesteps.
        cond: Token conditions, one a state.
        null_cond: The null condition or its cached prediction.
        statistic: Default: the raw :class:`NoiseMagnitude`.
        attribution: One of :data:`ATTRIBUTIONS`; static.

    Returns:
        Significance per token; padding is 0.

    Raises:
        ValueError: If the attribution is unknown or the condition has no tokens.

    .. note:: The statistic is per example and the gradient is taken with respect to the encoder's
        output. The official script swaps the halves, so its later steps follow an anti-guided
        trajectory, and takes one norm over all generations; neither is inherited here.
    """
    if attribution not in ATTRIBUTIONS:
        raise ValueError(f"attribution is {attribution!r}, expected one of {ATTRIBUTIONS}.")
    statistic = NoiseMagnitude() if statistic is None else statistic
    embeddings = embeddings_of(cond)

    def total(e):
        values = statistic(eps_fn, params, x_t, t, with_embeddings(cond, e), null_cond)
        return jnp.sum(values)

    if attribution == "integrated":
        points = (jnp.arange(_INTEGRATION_POINTS) + 0.5) / _INTEGRATION_POINTS
        grads = jnp.mean(jax.lax.map(lambda a: jax.grad(total)(a * embeddings), points), axis=0)
    else:
        grads = jax.grad(total)(embeddings)
    if attribution == "grad_norm":
        weights = jnp.sqrt(jnp.sum(grads**2, axis=-1))
    else:
        weights = jnp.abs(jnp.sum(grads * embeddings, axis=-1))
    return jnp.where(token_mask(cond), weights, 0.0)


@partial(
    jax.jit,
    static_argnames=(
        "eps_fn",
        "steps",
        "statistic",
        "attribution",
        "num_steps",
        "stepper",
        "spacing",
        "steps_offset",
        "set_alpha_to_one",
        "clip_x0",
    ),
)
def explain_tokens(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond,
    schedule: NoiseSchedule,
    *,
    steps: tuple[int, ...] | None = None,
    statistic: Statistic | None = None,
    attribution: str = "grad_norm",
    num_steps: int = 50,
    **sampling,
) -> Float[Array, "p g s l"]:
    """Returns significance per prompt, generation, chosen step and token, along guided sampling.

    Args:
        eps_fn: The network; static.
        params: Its weights.
        x_T: Initial noises, shared by all prompts.
        cond: Token conditions of p prompts.
        null_cond: The null condition.
        schedule: The noise schedule.
        steps: Step indices at which to differentiate; None means all; static.
        statistic: See :func:`token_significance`; static.
        attribution: See :func:`token_significance`; static.
        num_steps: Steps of the trajectory; static.
        **sampling: Passed to :func:`memjax.sampling.sample`.

    .. note:: The trajectory itself is not differentiated, and the unconditional half at each state
        is the one guidance has computed.
    """
    steps = tuple(range(num_steps)) if steps is None else steps
    prompts, generations = num_rows(cond), x_T.shape[0]
    x = jnp.tile(x_T, (prompts,) + (1,) * (x_T.ndim - 1))
    rows = repeat_cond(cond, generations)
    states = sample(
        eps_fn,
        params,
        x,
        rows,
        null_cond,
        schedule,
        num_steps=num_steps,
        stop_after=max(steps) + 1,
        tap=StatesTap(),
        **sampling,
    ).taps
    chosen = jax.tree.map(lambda a: a[np.asarray(steps)], states)

    def at_step(state):
        x_t, t, eps_uncond = state
        return token_significance(
            eps_fn,
            params,
            x_t,
            jnp.broadcast_to(t, (x_t.shape[0],)),
            rows,
            CachedNull(eps_uncond),
            statistic=statistic,
            attribution=attribution,
        )

    weights = jax.lax.map(at_step, chosen)
    return weights.reshape(len(steps), prompts, generations, -1).transpose(1, 2, 0, 3)

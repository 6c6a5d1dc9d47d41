"""Token-wise significance: the gradient of the magnitude with respect to each token's embedding.

References:
    Wen et al., ICLR 2024, Eq. 4.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.condition import (
    embeddings_of,
    num_rows,
    token_mask,
    with_embeddings,
)
from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull
from memjax.core.names import ATTRIBUTIONS
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, Detector, EpsFn, Params
from memjax.detectors import DETECTORS, NoiseMagnitude
from memjax.detectors.base import refuse_undifferentiable
from memjax.sampling.states import States, collect_states

_INTEGRATION_POINTS = 8


def token_significance(
    eps_fn: EpsFn,
    params: Params,
    x_t: Float[Array, "b *d"],
    t: Int[Array, " b"],
    cond: Cond,
    null_cond: Cond,
    *,
    statistic: Detector | None = None,
    attribution: str = "grad_norm",
    cached: CachedNull | None = None,
    schedule: NoiseSchedule | None = None,
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
        null_cond: The null condition, or its cached prediction.
        statistic: Any differentiable detector of states; default: the raw
            :class:`NoiseMagnitude`.
        attribution: One of :data:`ATTRIBUTIONS`; static.
        cached: The unconditional prediction at ``x_t``, where it is known beside the null
            condition.
        schedule: The noise schedule, for statistics of the score.

    Returns:
        Significance per token; padding is 0.

    Raises:
        ValueError: If the attribution is unknown, the statistic has no gradient or the condition
            has no tokens.

    .. note:: The statistic is per example and the gradient is taken with respect to the encoder's
        output. The official script swaps the halves, so its later steps follow an anti-guided
        trajectory, and takes one norm over all generations; neither is inherited here.
    """
    if attribution not in ATTRIBUTIONS:
        raise ValueError(f"attribution is {attribution!r}, expected one of {ATTRIBUTIONS}.")
    statistic = NoiseMagnitude() if statistic is None else statistic
    refuse_undifferentiable(statistic)
    embeddings = embeddings_of(cond)
    net = Denoiser(eps_fn, params, null_cond, schedule)
    maps = "maps" in statistic.needs

    def total(e):
        state = net.at(x_t, t, with_embeddings(cond, e), cached=cached, maps=maps)
        return jnp.sum(statistic(state, net))

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


def explain_states(
    eps_fn: EpsFn,
    params: Params,
    states: States,
    cond: Cond,
    *,
    statistic: Detector | None = None,
    attribution: str = "grad_norm",
    null_cond: Cond | None = None,
    schedule: NoiseSchedule | None = None,
) -> Float[Array, "p m l"]:
    """Returns significance per prompt, state and token; one state a prompt at a time in memory.

    Args:
        eps_fn: The network; static under jit.
        params: Its weights.
        states: Of :func:`memjax.sampling.collect_states`: the correct guided trajectory.
        cond: Token conditions of p prompts.
        statistic: See :func:`token_significance`; static.
        attribution: See :func:`token_significance`; static.
        null_cond: The null condition, for statistics that evaluate the network again.
        schedule: The noise schedule, for statistics of the score.
    """

    def at_state(state: States):
        return token_significance(
            eps_fn,
            params,
            state.x_t,
            state.t,
            cond,
            null_cond,
            statistic=statistic,
            attribution=attribution,
            cached=CachedNull(state.null),
            schedule=schedule,
        )

    weights = jax.lax.map(at_state, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), states))
    return jnp.swapaxes(weights, 0, 1)


def explain_tokens(
    eps_fn: EpsFn,
    params: Params,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    null_cond: Cond,
    schedule: NoiseSchedule,
    *,
    steps: tuple[int, ...] | None = None,
    statistic: Detector | None = None,
    attribution: str = "grad_norm",
    num_steps: int = 50,
    **sampling,
) -> Float[Array, "p g s l"]:
    """Returns significance per prompt, generation, chosen step and token, along guided sampling.

    Args:
        eps_fn: The network; static under jit.
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

    Raises:
        ValueError: If there is no null condition or a step index is out of range.

    .. note:: The trajectory itself is not differentiated, and the unconditional half at each state
        is the one guidance has computed.
    """
    steps = tuple(range(num_steps)) if steps is None else steps
    states = collect_states(
        eps_fn,
        params,
        x_T,
        cond,
        null_cond,
        schedule,
        steps=steps,
        num_steps=num_steps,
        **sampling,
    )
    weights = explain_states(
        eps_fn,
        params,
        states,
        cond,
        statistic=statistic,
        attribution=attribution,
        null_cond=null_cond,
        schedule=schedule,
    )
    by_step = weights.reshape(num_rows(cond), len(steps), x_T.shape[0], -1)
    return jnp.swapaxes(by_step, 1, 2)


@dataclasses.dataclass(frozen=True)
class TokenSignificance:
    """Token-wise significance: the gradient of a detector with respect to each token's embedding.

    Attributes:
        attribution: See :func:`token_significance`.
        detector: Any differentiable detector of states.

    References:
        Wen et al., ICLR 2024, Eq. 4.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond", "tokens"})
    cost: ClassVar[str] = "one trajectory, then 3 evaluations a step and noise"

    attribution: Literal["grad_norm", "grad_x_input", "integrated"] = "grad_norm"
    detector: str = "noise_magnitude"

    def __post_init__(self) -> None:
        refuse_undifferentiable(self.statistic)

    @property
    def statistic(self) -> Detector:
        """The detector."""
        return DETECTORS.parse(self.detector)

    def __call__(
        self,
        eps_fn: EpsFn,
        params: Params,
        x_T: Float[Array, "g *d"],
        cond: Cond,
        null_cond: Cond,
        schedule: NoiseSchedule,
        **sampling,
    ) -> Float[Array, "p g s l"]:
        """Returns significance ``[prompt, generation, step, token]``, as :func:`explain_tokens`."""
        return explain_tokens(
            eps_fn,
            params,
            x_T,
            cond,
            null_cond,
            schedule,
            statistic=self.statistic,
            attribution=self.attribution,
            **sampling,
        )

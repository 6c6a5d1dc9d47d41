"""How fast the prediction changes as the condition leaves the null condition's direction.

References:
    Submission pY2P28M9Iv on OpenReview (memorization through the Jacobian of the condition).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.condition import embeddings_of, with_embeddings
from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CompanionNull, RandomNull
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import null_cond_or_refuse, null_or_refuse


@dataclasses.dataclass(frozen=True)
class ConditionJacobian(Detector):
    """Jacobian of the prediction in the condition, ``‖(∂ε/∂e)(e_p − e_∅)‖₂`` at the prompt ``e_p``.

    The magnitude ``ε_c − ε_u`` is the integral of this derivative from ``e_∅`` to ``e_p``; the
    Jacobian at ``e_p`` itself says how much the last bit of the way still changes. One forward-mode
    derivative in the token embeddings, in a single direction: no Jacobian is formed.

    Attributes:
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score.

    .. note:: There is no published code, and only the identity above was available. The mask of the
        prompt is kept along the way. Where k random conditions stand for the null condition,
        ``e_∅`` is the mean of their embeddings. A companion's null condition belongs to another
        network and is refused.

    References:
        OpenReview pY2P28M9Iv (condition Jacobian).
    """

    cost: ClassVar[str] = "2 evaluations a state: a forward-mode derivative in the condition"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    evals: ClassVar[int] = 2
    is_norm: ClassVar[bool] = True

    rms: bool = False
    steps: Steps | None = "first"

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        null_or_refuse(state.eps_uncond)
        null = null_cond_or_refuse(self, net)
        if isinstance(null, CompanionNull):
            raise ValueError(
                "ConditionJacobian moves the condition to the null condition, and a companion's "
                "belongs to another network: take null='random_labels', or another detector."
            )
        embeddings = embeddings_of(state.cond)
        if isinstance(null, RandomNull):
            start = jnp.mean(embeddings_of(null.conds), axis=0, keepdims=True)
        else:
            start = embeddings_of(null)
        direction = (embeddings - start).astype(embeddings.dtype)
        _, along = jax.jvp(
            lambda e: net.eps(state.x_t, state.t, with_embeddings(state.cond, e)),
            (embeddings,),
            (direction,),
        )
        return per_example_norm(along, rms=self.rms)

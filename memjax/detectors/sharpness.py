"""The sharpness of what the condition adds to the log density: one Hessian-vector product.

References:
    Jeon, Kim and No, "Understanding and Mitigating Memorization in Generative Models via Sharpness
    of Probability Landscapes", ICML 2025, arXiv 2412.04140.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import CachedNull, null_or_refuse
from memjax.core.numerics import per_example_norm
from memjax.core.process import coefficients
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Detector, State, Steps


@dataclasses.dataclass(frozen=True)
class Sharpness(Detector):
    """Sharpness of the conditional log density, ``‖(H_c − H_u)(s_c − s_u)‖₂`` per example.

    ``s = ∇ log p_t`` is the score and ``H = ∂s/∂x`` its Jacobian, the Hessian of the log density.
    With ``s = −ε/σ_t``, ``σ_t = √(1−ᾱ_t)`` and ``Δ = ε_c − ε_u`` this is
    ``‖(∂Δ/∂x) Δ‖₂ / σ_t²``: one forward-mode derivative of ``x ↦ Δ(x)`` along ``Δ(x_t)``, which
    sampling has computed already.

    Attributes:
        form: ``score`` is the formula above and needs the noise schedule; ``eps`` leaves out
            ``1/σ_t²``. At one timestep the two rank alike; over a window ``score`` weighs a step
            by ``1/σ_t²``, so that the cleanest steps outweigh all others.
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score.

    .. note:: The official code measures in bfloat16, of a v-predicting network with the state held
        constant inside the derivative (it cancels in the difference); here the predictions keep
        their precision, the norm is float32 and every network is an ε-predictor.
    .. note:: The derivative is taken anew in both halves: a cached unconditional prediction cannot
        be differentiated, and is refused as null condition. Fused attention kernels that only
        define a gradient have no forward mode, and JAX refuses them: evaluate such a network in
        float32, where they are not used.

    References:
        Jeon, Kim and No, ICML 2025, arXiv 2412.04140, Table 1 (detection at the first steps).
    """

    cost: ClassVar[str] = "4 evaluations a state: a forward-mode derivative of both halves"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    evals: ClassVar[int] = 4
    null_evals: ClassVar[int] = 2
    is_norm: ClassVar[bool] = True

    form: Literal["score", "eps"] = "score"
    rms: bool = False
    steps: Steps | None = "first"

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        delta = state.eps_cond - null_or_refuse(state.eps_uncond)
        _refuse_without_null(net)

        def difference(x: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
            eps_cond, eps_uncond = net.pair(x, state.t, state.cond)
            return eps_cond - eps_uncond

        _, along = jax.jvp(difference, (state.x_t,), (delta.astype(state.x_t.dtype),))
        norm = per_example_norm(along, rms=self.rms)
        if self.form == "eps":
            return norm
        _, sigma = coefficients(_schedule_or_refuse(net), state.t, 1)
        return norm / sigma**2


def _refuse_without_null(net: Denoiser) -> None:
    if net.null_cond is None or isinstance(net.null_cond, CachedNull):
        raise ValueError(
            "Sharpness differentiates the unconditional half, and only its prediction at one state "
            "is known: give the null condition itself as null_cond, too."
        )


def _schedule_or_refuse(net: Denoiser) -> NoiseSchedule:
    if net.schedule is None:
        raise ValueError(
            "Sharpness(form='score') needs σ_t, and no noise schedule is given: give schedule=, or "
            "take form='eps', which ranks alike at one timestep."
        )
    return net.schedule

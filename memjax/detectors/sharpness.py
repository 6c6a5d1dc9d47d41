"""The sharpness of what the condition adds to the log density: Hessian-vector products.

References:
    Jeon, Kim and No, "Understanding and Mitigating Memorization in Generative Models via Sharpness
    of Probability Landscapes", ICML 2025, arXiv 2412.04140.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.numerics import per_example_norm
from memjax.core.process import coefficients
from memjax.core.types import Array, Detector, State, Steps
from memjax.detectors.base import null_cond_or_refuse, null_or_refuse, schedule_or_refuse


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
        null_cond_or_refuse(self, net)

        def difference(x: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
            eps_cond, eps_uncond = net.pair(x, state.t, state.cond)
            return eps_cond - eps_uncond

        _, along = jax.jvp(difference, (state.x_t,), (delta.astype(state.x_t.dtype),))
        return _in_form(self, per_example_norm(along, rms=self.rms), state, net)


@dataclasses.dataclass(frozen=True)
class HessianDifference(Detector):
    """Difference of the two Hessians along their own scores, ``‖H_c s_c − H_u s_u‖₂`` per example.

    :class:`Sharpness` without its mixed terms: with ``J = ∂ε/∂x`` of each half it is
    ``‖J_c ε_c − J_u ε_u‖₂ / σ_t²``, one forward-mode derivative of each.

    Attributes:
        form: ``score`` is the formula above and needs the noise schedule; ``eps`` leaves out
            ``1/σ_t²``. See :class:`Sharpness`.
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score.

    .. note:: The official code takes the gradient of ``½‖ε‖²``, which is ``Jᵀε``: the same where ε
        is a score, whose Jacobian is symmetric, and nearly so for a network. It squares the norm,
        which ranks alike, and leaves out ``1/σ_t²``.

    References:
        "Early Detection of Memorization in Diffusion Models", 2026, Metric 2 of its official code
        (github.com/randomnameforicml/icml-2026, authors unnamed).
    """

    cost: ClassVar[str] = "4 evaluations a state: a forward-mode derivative of each half"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    evals: ClassVar[int] = 4
    null_evals: ClassVar[int] = 2
    is_norm: ClassVar[bool] = True

    form: Literal["score", "eps"] = "score"
    rms: bool = False
    steps: Steps | None = "first"

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        x, t = state.x_t, state.t
        eps_uncond = null_or_refuse(state.eps_uncond).astype(x.dtype)
        null_cond_or_refuse(self, net)
        _, along_cond = jax.jvp(
            lambda x: net.eps(x, t, state.cond), (x,), (state.eps_cond.astype(x.dtype),)
        )
        _, along_uncond = jax.jvp(lambda x: net.null(x, t), (x,), (eps_uncond,))
        norm = per_example_norm(along_cond - along_uncond, rms=self.rms)
        return _in_form(self, norm, state, net)


def _in_form(
    detector: Sharpness | HessianDifference,
    norm: Float[Array, " b"],
    state: State,
    net: Denoiser,
) -> Float[Array, " b"]:
    """Returns a norm of ``J ε`` in the units of ε, or of the score."""
    if detector.form == "eps":
        return norm
    instead = "take form='eps', which ranks alike at one timestep"
    _, sigma = coefficients(schedule_or_refuse(detector, net, instead), state.t, 1)
    return norm / sigma**2

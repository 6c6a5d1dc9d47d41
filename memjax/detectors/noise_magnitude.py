"""The magnitude of the text-conditional noise prediction, ``‖ε(x_t,t,c) − ε(x_t,t,∅)‖₂``.

References:
    Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, Eq. 3.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Float

from memjax.core.denoiser import Denoiser
from memjax.core.guidance import null_or_refuse
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Detector, State, Steps


@dataclasses.dataclass(frozen=True)
class NoiseMagnitude(Detector):
    """Magnitude of the text-conditional noise prediction, ``‖ε_c − ε_u‖₂`` per example.

    Attributes:
        rms: Divide by ``√d``, so that numbers compare between image sizes.
        steps: Steps whose mean is the score.

    .. note:: The norm is per example. The official code takes one norm over the whole batch of
        generations, which grows with ``√n``.

    References:
        Wen et al., ICLR 2024, arXiv 2407.21720, Eq. 3.
    """

    cost: ClassVar[str] = "free along sampling; at the first step 1 forward evaluation a noise"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    is_norm: ClassVar[bool] = True

    rms: bool = False
    steps: Steps | None = None

    def __call__(self, state: State, net: Denoiser) -> Float[Array, " b"]:
        del net
        eps_uncond = null_or_refuse(state.eps_uncond)
        return per_example_norm(state.eps_cond - eps_uncond, rms=self.rms)

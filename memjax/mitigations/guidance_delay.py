"""Delayed guidance: the early steps are taken without classifier-free guidance, or against it.

References:
    Jain et al., CVPR 2025, arXiv 2411.16738 (attraction basins, transition points).
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from memjax.core.guidance import ClassifierFree, guide
from memjax.core.numerics import per_example_norm
from memjax.core.types import Array, Guidance, GuidanceStep
from memjax.mitigations.base import Mitigation, Problem, Setup

STATIC_SCALE, DYNAMIC_SCALE = 0.0, 1.0  # of the early steps: ε_u alone, ε_c alone


class DelayedCarry(NamedTuple):
    """What delayed guidance remembers from step to step.

    Attributes:
        before: ``‖ε_c − ε_u‖`` two steps ago; −∞ where there was none.
        last: The same one step ago.
        started: Whether the example is past its transition point.
        later: What the rule that follows remembers.
    """

    before: Float[Array, " b"]
    last: Float[Array, " b"]
    started: Bool[Array, " b"]
    later: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DelayedGuidance:
    """One scale up to a transition point, another rule from there on.

    ``ε = ε_u + s_early (ε_c − ε_u)`` before the transition point, ``later`` afterwards. Static: it
    lies at step ``round(until · steps)``. Dynamic: at the first step i with
    ``m_i > m_{i−1} < m_{i−2}``, where ``m = ‖ε_c − ε_u‖``, for each example on its own; at the
    latest where the static one lies.

    Attributes:
        until: Share of the steps before the (latest) transition point, in [0, 1].
        early: s_early.
        later: The rule afterwards; it is told of every step, so that it may carry what it needs.
        dynamic: Whether to look for the minimum; static under jit.

    .. note:: A minimum is known one step after it was passed, as in the publication. Guidance that
        has started does not stop again.
    """

    until: Float[Array, ""] | float
    early: Float[Array, ""] | float
    later: Guidance
    dynamic: bool = dataclasses.field(default=False, metadata={"static": True})

    def init(self, x_T: Float[Array, "b *d"]) -> DelayedCarry:
        # Nothing is below −∞: neither the first step nor the second can end a descent.
        none = jnp.full(x_T.shape[:1], -jnp.inf)
        return DelayedCarry(none, none, jnp.zeros(x_T.shape[:1], bool), self.later.init(x_T))

    def __call__(
        self,
        carry: DelayedCarry,
        step: GuidanceStep,
        eps_cond: Float[Array, "b *d"],
        eps_uncond: Float[Array, "b *d"],
    ) -> tuple[DelayedCarry, Float[Array, "b *d"]]:
        kept, late = self.later(carry.later, step, eps_cond, eps_uncond)
        last, started = carry.last, carry.started
        if self.dynamic:
            last = per_example_norm(eps_cond - eps_uncond)
            started |= (last > carry.last) & (carry.before > carry.last)
        started |= step.index >= jnp.round(self.until * step.num_steps)
        early = guide(eps_uncond, eps_cond, self.early)
        each = started.reshape(-1, *(1,) * (early.ndim - 1))
        return DelayedCarry(carry.last, last, started, kept), jnp.where(each, late, early)


@dataclasses.dataclass(frozen=True)
class GuidanceDelay(Mitigation):
    """Delayed guidance: the early steps are taken without guidance, or against it.

    Attributes:
        until: Share of the steps before guidance starts, to the nearest step; 0 is the identity, 1
            never guides. With ``dynamic`` it starts there at the latest.
        early: Scale of ``ε_u + s (ε_c − ε_u)`` before; negative is opposite guidance. None: 0
            (unconditional), or 1 (conditional) with ``dynamic``.
        dynamic: Each image's guidance starts at the first strict local minimum of its own
            ``‖ε_c − ε_u‖``, seen one step late.

    References:
        Jain et al., CVPR 2025, arXiv 2411.16738 (static and dynamic transition point,
        opposite guidance).

    .. note:: The published transition at t = 500 of 1,000 is ``until=0.5``. The publication samples
        on a finer grid after the transition; here the grid stays, so that images before and after
        differ by guidance alone and the cost is the same. On an exact oracle static delay and
        opposite guidance lower copying, the dynamic transition hardly does: it relies on how a
        trained network errs in early steps.
    """

    stage: ClassVar = "guidance"
    needs: ClassVar[frozenset[str]] = frozenset({"eps_uncond"})
    cost: ClassVar[str] = "free"

    until: float = 0.5
    early: float | None = dataclasses.field(default=None, metadata={"signed": True})
    dynamic: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.until <= 1.0:
            raise ValueError(f"until is {self.until}, expected a share of the steps, 0 to 1.")
        if self.early is not None and not math.isfinite(self.early):
            raise ValueError(f"early is {self.early}, expected a finite guidance scale.")

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        del setup, key
        if not self.until:
            return problem
        usual = DYNAMIC_SCALE if self.dynamic else STATIC_SCALE
        later = ClassifierFree(jnp.float32(1.0)) if problem.guidance is None else problem.guidance
        rule = DelayedGuidance(
            jnp.float32(self.until),
            jnp.float32(usual if self.early is None else self.early),
            later,
            self.dynamic,
        )
        return problem._replace(guidance=rule)

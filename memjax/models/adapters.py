"""Linen modules, NNX modules and plain functions as ``EpsFn``, and the change of prediction.

Each adapter is a frozen dataclass: hashable by value, so it may be a static argument of a jitted
function and two equal ones share a trace.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int

from memjax.core import process
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Array, Cond, EpsFn, Params


@dataclasses.dataclass(frozen=True)
class LinenEps:
    """A Linen module as ``EpsFn``; ``params`` is its 'params' tree.

    Attributes:
        module: Called as ``module(x_t, t, cond)``; Linen modules compare and hash by value.
        method: Name of the method to call instead, for example ``"denoise"``.
    """

    module: Any
    method: str | None = None

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return self.module.apply({"params": params}, x_t, t, cond, method=self.method)


@dataclasses.dataclass(frozen=True)
class NnxEps:
    """A split NNX module as ``EpsFn``; ``params`` is the state that ``nnx.split`` gave.

    Attributes:
        graphdef: The static half, hashable by value.
    """

    graphdef: Any

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        from flax import nnx

        return nnx.merge(self.graphdef, params)(x_t, t, cond)


def nnx_eps(model: Any) -> tuple[NnxEps, Params]:
    """Splits an NNX module called as ``model(x_t, t, cond)`` into ``(eps_fn, params)``."""
    from flax import nnx

    graphdef, state = nnx.split(model)
    return NnxEps(graphdef), state


@dataclasses.dataclass(frozen=True)
class PlainEps:
    """A plain function ``fn(params, x_t, t, cond)`` as ``EpsFn``.

    .. note:: Functions hash by identity: define ``fn`` once, at module level. A lambda rebuilt for
        every call is a new function, and a new trace, every time.
    """

    fn: Callable[[Params, Array, Array, Cond], Array]

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return self.fn(params, x_t, t, cond)


@dataclasses.dataclass(frozen=True)
class EpsFromV:
    """A v-predicting function as ``EpsFn``: ``ε = √ᾱ_t v + √(1−ᾱ_t) x_t``.

    References:
        Salimans and Ho 2022, arXiv 2202.00512, appendix D.
    """

    v_fn: EpsFn
    spec: ScheduleSpec

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return process.eps_from_v(self.spec.build(), x_t, t, self.v_fn(params, x_t, t, cond))


@dataclasses.dataclass(frozen=True)
class EpsFromX0:
    """An image-predicting function as ``EpsFn``: ``ε = (x_t − √ᾱ_t x0) / √(1−ᾱ_t)``."""

    x0_fn: EpsFn
    spec: ScheduleSpec

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        return process.eps_from_x0(self.spec.build(), x_t, t, self.x0_fn(params, x_t, t, cond))

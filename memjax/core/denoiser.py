"""A network with its weights, null condition and schedule: what a statistic may evaluate again."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from jaxtyping import Float, Int

from memjax.core.condition import text_length
from memjax.core.guidance import (
    CachedNull,
    CompanionNull,
    RandomNull,
    null_or_refuse,
    predict_null,
    predict_pair,
)
from memjax.core.schedules import NoiseSchedule
from memjax.core.types import Array, Cond, EpsFn, Params, State


def gives_maps(eps_fn: EpsFn) -> bool:
    """Returns whether a network tells its cross-attention (an adapter's ``with_maps``)."""
    return getattr(eps_fn, "with_maps", None) is not None


def gives_end_map(eps_fn: EpsFn) -> bool:
    """Returns whether it tells how much each pixel attends to a text's end (``with_end_map``)."""
    return getattr(eps_fn, "with_end_map", None) is not None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A pytree: ``eps_fn`` is static; weights, null condition and schedule are traced.

    Attributes:
        eps_fn: The network.
        params: Its weights.
        null_cond: The unconditional condition or what stands for it; None where none was trained.
        schedule: Its noise schedule, for statistics of the score; None where it is not at hand.
    """

    eps_fn: EpsFn = dataclasses.field(metadata={"static": True})
    params: Params
    null_cond: Any = None
    schedule: NoiseSchedule | None = None

    def eps(
        self, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]:
        """Returns the conditional prediction."""
        return self.eps_fn(self.params, x_t, t, cond)

    def null(self, x_t: Float[Array, "b *d"], t: Int[Array, " b"]) -> Float[Array, "b *d"]:
        """Returns the unconditional prediction.

        Raises:
            ValueError: If there is no null condition.
        """
        return predict_null(self.eps_fn, self.params, x_t, t, null_or_refuse(self.null_cond))

    def pair(
        self, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> tuple[Float[Array, "b *d"], Float[Array, "b *d"]]:
        """Returns ``(ε_c, ε_u)``, in one batched call where a null condition was trained."""
        return predict_pair(self.eps_fn, self.params, x_t, t, cond, null_or_refuse(self.null_cond))

    def at(
        self,
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: Cond,
        *,
        cached: CachedNull | None = None,
        maps: bool = False,
        end_map: bool = False,
    ) -> State:
        """Returns a state with its predictions.

        Args:
            x_t: Noisy states.
            t: Their timesteps.
            cond: Their conditions.
            cached: The unconditional prediction at ``x_t``, where it is known already.
            maps: Also the condition's cross-attention; static.
            end_map: Also where the end of its text is seen; static.

        Raises:
            ValueError: If attention is asked for and the network does not tell it.
        """
        null = self.null_cond if cached is None else cached
        if not (maps or end_map):
            if null is None:
                return State(x_t, t, cond, self.eps(x_t, t, cond), None)
            return State(x_t, t, cond, *predict_pair(self.eps_fn, self.params, x_t, t, cond, null))
        return self._with_maps(x_t, t, cond, null, end_map)

    def _with_maps(self, x_t, t, cond, null, end_map: bool) -> State:
        refuse_without_maps(self.eps_fn)
        if end_map:
            refuse_without_end_map(self.eps_fn)
            fn = self.eps_fn.with_end_map  # type: ignore[attr-defined]
        else:
            fn = _without_end(self.eps_fn.with_maps)  # type: ignore[attr-defined]
        if null is None or isinstance(null, CachedNull | RandomNull | CompanionNull):
            eps_cond, seen = fn(self.params, x_t, t, cond)
            null = None if null is None else predict_null(self.eps_fn, self.params, x_t, t, null)
            return State(x_t, t, cond, eps_cond, null, *seen)
        (eps_cond, seen), (eps_uncond, _) = predict_pair(fn, self.params, x_t, t, cond, null)
        return State(x_t, t, cond, eps_cond, eps_uncond, *seen)


def _without_end(with_maps: Any) -> Any:
    """Returns ``with_maps`` in the form of ``with_end_map``."""

    def run(*args: Any) -> tuple[Array, tuple[Array]]:
        eps, maps = with_maps(*args)
        return eps, (maps,)

    return run


def of_texts(null_cond: Any) -> bool:
    """Returns whether a null condition, or what stands for it, is that of a text with an end."""
    if isinstance(null_cond, RandomNull):
        null_cond = null_cond.conds
    if isinstance(null_cond, CompanionNull):
        null_cond = null_cond.cond
    return text_length(null_cond) is not None


def refuse_without_end_map(eps_fn: EpsFn, null_cond: Any = None) -> None:
    """Refuses a network, or conditions, of which it is not known where a text's end is seen.

    Args:
        eps_fn: The network.
        null_cond: The null condition, which is of the conditions' type; None: any.

    Raises:
        ValueError: With the way out.
    """
    if not gives_end_map(eps_fn):
        raise ValueError(
            f"{type(eps_fn).__name__} does not tell where it sees the end of a text: give an "
            "adapter with the method with_end_map(params, x_t, t, cond) -> (eps, (maps, end))."
        )
    if null_cond is not None and not of_texts(null_cond):
        raise ValueError(
            f"the null condition is a {type(null_cond).__name__}, expected that of a text with an "
            "end-of-text token: labels have no token that sums up the others, so take a detector "
            "that does without."
        )


def refuse_without_maps(eps_fn: EpsFn) -> None:
    """Refuses a network that does not tell its attention.

    Raises:
        ValueError: With the way out.
    """
    if not gives_maps(eps_fn):
        raise ValueError(
            f"{type(eps_fn).__name__} does not tell its cross-attention: give an adapter with the "
            "method with_maps(params, x_t, t, cond) -> (eps, maps [b, layers, tokens])."
        )


def needs_of(detectors: Iterable[Any]) -> frozenset[str]:
    """Returns all that some detectors need together."""
    return frozenset().union(*(d.needs for d in detectors))

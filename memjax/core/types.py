"""The vocabulary of memjax on one page.

Conventions, once: images are NHWC in ``[-1, 1]``; ``t`` is an int in ``[0, T)`` with 0 the clean
end; ``params`` is the first array argument of every model call; ``cond`` is an opaque pytree whose
leaves have a leading batch axis; scores are higher for "more memorised".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax
from jaxtyping import Bool, Float, Int, PyTree

if TYPE_CHECKING:
    # NumPy, JAX and traced arrays mix freely; shapes and dtypes are stated by the annotations.
    Array: TypeAlias = Any
else:
    Array = jax.Array
Params: TypeAlias = PyTree
Cond: TypeAlias = PyTree


class TokenCond(NamedTuple):
    """A token-based condition: what a label or text encoder hands to the network.

    Attributes:
        embeddings: Contextual token embeddings.
        mask: True where a token is real, False where it is padding.
    """

    embeddings: Float[Array, "b l d"]
    mask: Bool[Array, "b l"]


class EpsFn(Protocol):
    """Any network as a pure function that predicts the noise ε in ``x_t``.

    Networks trained for v are wrapped by :class:`memjax.models.adapters.EpsFromV`.
    """

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]: ...


class Statistic(Protocol):
    """One number per example; higher means more memorised. Differentiable in ``cond``."""

    def __call__(
        self,
        eps_fn: EpsFn,
        params: Params,
        x_t: Float[Array, "b *d"],
        t: Int[Array, " b"],
        cond: Cond,
        null_cond: Cond,
    ) -> Float[Array, " b"]: ...


class Mitigation(Protocol):
    """``cond → cond``: the simplest kind of mitigation; compose by function composition."""

    def __call__(self, cond: Cond) -> Cond: ...


class StepInfo(NamedTuple):
    """What the sampler knows at one step; a tap receives it and pays for nothing twice.

    Attributes:
        index: Position in the trajectory, 0 = first step (most noise).
        t: Timestep of ``x_t``, the same for the whole batch.
        x_t: The state *before* the step.
        eps_cond: Conditional noise prediction.
        eps_uncond: Unconditional prediction, or None when guidance is off.
        eps: The prediction the step uses.
        x0: The step's estimate of the clean image.
    """

    index: Int[Array, ""]
    t: Int[Array, ""]
    x_t: Float[Array, "b *d"]
    eps_cond: Float[Array, "b *d"]
    eps_uncond: Float[Array, "b *d"] | None
    eps: Float[Array, "b *d"]
    x0: Float[Array, "b *d"]


Tap: TypeAlias = Callable[[StepInfo], PyTree]
PromptRow: TypeAlias = Mapping[str, Any]


class Bundle(NamedTuple):
    """What ``--model=`` resolves to; every command is written once against it.

    Attributes:
        eps_fn: The network as ε-predictor.
        params: Its weights (the EMA weights of a memjax run).
        schedule: The noise schedule it was trained with.
        sample_shape: Shape of one state, without batch axis.
        encode: Prompt rows → condition with one row per prompt.
        null_cond: The unconditional condition with batch axis 1, or None where none was trained.
        decode: State → images in [-1, 1].
        describe: Prompt row → one name per condition token.
        info: Provenance: run folder, checkpoint step, config, seed.
    """

    eps_fn: EpsFn
    params: Params
    schedule: Any
    sample_shape: tuple[int, ...]
    encode: Callable[[Sequence[PromptRow]], Cond]
    null_cond: Cond | None
    decode: Callable[[Float[Array, "b *d"]], Float[Array, "b h w c"]]
    describe: Callable[[PromptRow], list[str]]
    info: Mapping[str, Any]

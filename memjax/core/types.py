"""The vocabulary of memjax on one page.

Conventions, once: images are NHWC in ``[-1, 1]``; ``t`` is an int in ``[0, T)`` with 0 the clean
end; ``params`` is the first array argument of every model call; ``cond`` is an opaque pytree whose
leaves have a leading batch axis; scores are higher for "more memorized".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

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


class TextCond(NamedTuple):
    """A :class:`TokenCond` of a text whose padding the network attends to, as Stable Diffusion's.

    The mask cannot tell where such a text ends, so it is said beside it. A null condition that
    stands beside this one is of the same type.

    Attributes:
        embeddings: Contextual token embeddings.
        mask: True where a token is attended to.
        length: Tokens up to and including the end-of-text token.
    """

    embeddings: Float[Array, "b l d"]
    mask: Bool[Array, "b l"]
    length: Int[Array, " b"]


class EpsFn(Protocol):
    """Any network as a pure function that predicts the noise ε in ``x_t``.

    Networks trained for v are wrapped by :class:`memjax.models.adapters.EpsFromV`.
    """

    def __call__(
        self, params: Params, x_t: Float[Array, "b *d"], t: Int[Array, " b"], cond: Cond
    ) -> Float[Array, "b *d"]: ...


class State(NamedTuple):
    """Where a statistic is evaluated, with what guidance has computed there anyway.

    Attributes:
        x_t: Noisy states.
        t: Their timesteps.
        cond: Their conditions.
        eps_cond: Conditional noise prediction.
        eps_uncond: Unconditional one, or None for a model without a null condition.
        maps: Cross-attention probabilities of the condition's tokens, averaged over heads and
            pixels, one row a layer from input to output; None where no detector asked for them.
        end_map: How much each pixel of the finest layers attends to the end of the text; None
            where no detector asked for it.
    """

    x_t: Float[Array, "b *d"]
    t: Int[Array, " b"]
    cond: Cond
    eps_cond: Float[Array, "b *d"]
    eps_uncond: Float[Array, "b *d"] | None
    maps: Float[Array, "b k l"] | None = None
    end_map: Float[Array, "b h w"] | None = None


class Trajectory(NamedTuple):
    """A sampled trajectory, step by step, for statistics that look at it as a whole.

    Attributes:
        x_t: The states before each step.
        x_end: The state after the last one: the clean image where all steps were run.
        t: The timestep of each step.
        signal: ``√ᾱ`` of each step.
        sigma: ``√(1 − ᾱ)`` of each step.
        maps: Attention of each step, see :class:`State`; None where no detector asked for it.
        cond: The conditions, the same at each step.
        delta: ``ε_c − ε_u`` of each step; None where no detector asked for ``eps_uncond``.
        end_map: See :class:`State`; None where no detector asked for it.
    """

    x_t: Float[Array, "s b *d"]
    x_end: Float[Array, "b *d"]
    t: Int[Array, " s"]
    signal: Float[Array, " s"]
    sigma: Float[Array, " s"]
    maps: Float[Array, "s b k l"] | None = None
    cond: Cond | None = None
    delta: Float[Array, "s b *d"] | None = None
    end_map: Float[Array, "s b h w"] | None = None


Steps: TypeAlias = str | int | tuple[int, int]
Domain: TypeAlias = Literal["state", "trajectory", "images", "example"]


class Detector(Protocol):
    """A memorization statistic: a frozen dataclass of hyper-parameters; higher = more memorized.

    ``domain`` says what it is called with: ``state`` one :class:`State` and gives ``[b]``,
    ``trajectory`` a :class:`Trajectory` and gives ``[step, b]``, ``images`` the finished images of
    each prompt, ``[p, g, h, w, c]`` in [-1, 1], and gives ``[p]``, ``example`` real images. The
    second argument is the :class:`memjax.core.denoiser.Denoiser`, for those that evaluate the
    network again; None beside images.

    Attributes:
        domain: See above.
        needs: What it cannot do without: out of ``eps_uncond``, ``maps``, ``end_map`` (where a
            text's end is seen), ``images`` (the trajectory's end), ``reference_model``,
            ``training_images``, ``shadow_models``.
        evals: Network evaluations a state beyond those of guidance, where a null condition was
            trained; a forward-mode derivative counts as two. A class variable, or a property where
            it depends on a field.
        null_evals: How many of these are of the unconditional half; each costs k where k random
            conditions stand for the null condition.
        differentiable: Whether its gradient with respect to the condition means something.
        is_norm: Whether it is an l2 norm over the state, which divided by ``√d`` compares between
            image sizes.
        steps: The window of steps whose mean is the score; None: all that were run.
    """

    domain: ClassVar[Domain] = "state"
    needs: ClassVar[frozenset[str]] = frozenset()
    null_evals: ClassVar[int] = 0
    differentiable: ClassVar[bool] = True
    is_norm: ClassVar[bool] = False

    @property
    def evals(self) -> int:
        return 0

    @property
    def steps(self) -> Steps | None: ...

    def __call__(self, seen: Any, net: Any) -> Array: ...


class GuidanceStep(NamedTuple):
    """What guidance is told of a step.

    Attributes:
        index: Position in the trajectory, 0 = first step (most noise).
        num_steps: Steps of the whole trajectory.
        t: Timestep of ``x_t``.
        x_t: The state.
    """

    index: Int[Array, ""]
    num_steps: int
    t: Int[Array, ""]
    x_t: Float[Array, "b *d"]


class Guidance(Protocol):
    """How the two predictions are combined: a pure pair, carried through the sampling loop.

    A pytree whose leaves are its numbers: changing one does not recompile.
    """

    def init(self, x_T: Float[Array, "b *d"]) -> Any: ...

    def __call__(
        self,
        carry: Any,
        step: GuidanceStep,
        eps_cond: Float[Array, "b *d"],
        eps_uncond: Float[Array, "b *d"],
    ) -> tuple[Any, Float[Array, "b *d"]]: ...


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

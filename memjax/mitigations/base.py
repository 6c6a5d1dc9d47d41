"""Mitigations as maps from sampling problem to sampling problem, and how they combine."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.condition import chunk_numbers, embeddings_of, num_rows, take_rows
from memjax.core.registry import Registry, split_outside
from memjax.core.types import Array, Cond, Detector, EpsFn, Guidance, Params, PromptRow
from memjax.sampling import States, timesteps

Stage: TypeAlias = Literal["text", "params", "cond", "noise", "guidance", "reject"]
# A later stage is made from an earlier one: conditions are encoded from text by the weights.
_RANK = {"text": 0, "params": 1, "cond": 2, "noise": 2, "guidance": 2, "reject": 3}


class Problem(NamedTuple):
    """All that sampling some prompts is a function of.

    Attributes:
        rows: The prompts.
        params: The network's weights.
        cond: The prompts' conditions.
        null_cond: The unconditional condition, or None.
        x_T: Initial noise: shared by all prompts ``[g, *d]``, or each prompt's own.
        guidance: How the two predictions are combined; None without a null condition.
        own_noise: Whether ``x_T`` is ``[p, g, *d]``.
    """

    rows: Sequence[PromptRow]
    params: Params
    cond: Cond
    null_cond: Cond | None
    x_T: Float[Array, "g *d"] | Float[Array, "p g *d"]
    guidance: Guidance | None
    own_noise: bool = False

    @property
    def size(self) -> int:
        """How many prompts there are."""
        return num_rows(self.cond)

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Problem":
        """Returns the problem of some prompts."""
        at = np.asarray(numbers)
        return self._replace(
            rows=[self.rows[i] for i in at] if len(self.rows) else self.rows,
            cond=take_rows(self.cond, at),
            x_T=self.x_T[at] if self.own_noise else self.x_T,
        )

    def chunks(self, size: int) -> Iterator[tuple["Problem", np.ndarray]]:
        """Yields chunks of one static size with their numbers; the last prompt fills the last."""
        for numbers in chunk_numbers(self.size, size):
            yield self.take(numbers), numbers


def concatenated(parts: Sequence[Any], count: int) -> Any:
    """Joins what chunks gave, without what filled the last one."""
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return jax.block_until_ready(take_rows(joined, np.arange(count)))


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a mitigation may use besides the problem; all but the first three may be missing.

    Attributes:
        eps_fn: The network.
        schedule: Its noise schedule.
        sampling: Keyword arguments of :func:`memjax.sampling.sample`, guidance excepted.
        chunk: Prompts evaluated together.
        encode: Prompt rows → conditions, with the model's own weights.
        trainable: ``(rows, protected labels) →`` which tokens may move ``[p, l]``.
        pool: Conditions that random changes draw from.
        words: Words that random insertions draw from.
        pieces: The tokenizer's pieces, likewise.
        level: ``(detector, step indices) →`` its mean on ordinary prompts, or None.
        known: A problem, step indices and its chunks' states there, computed before.
    """

    eps_fn: EpsFn
    schedule: Any
    sampling: Mapping[str, Any]
    chunk: int = 8
    encode: Callable[[Sequence[PromptRow]], Cond] | None = None
    trainable: Callable[[Sequence[PromptRow], Sequence[str]], np.ndarray] | None = None
    pool: Cond | None = None
    words: Sequence[str] = ()
    pieces: Sequence[str] = ()
    level: Callable[[Detector, tuple[int, ...]], float | None] | None = None
    known: tuple[Problem, tuple[int, ...], Sequence[States]] | None = None

    @property
    def first_timestep(self) -> Int[Array, ""]:
        """The timestep at which sampling starts."""
        grid = timesteps(
            self.schedule.num_timesteps,
            self.sampling["num_steps"],
            self.sampling.get("spacing", "leading"),
            self.sampling.get("steps_offset", 0),
        )
        return jnp.asarray(grid[0])

    def movable(self, problem: Problem, protect: Sequence[str]) -> Bool[np.ndarray, "p l"]:
        """Returns which tokens may move; without ``trainable`` all but the first.

        Raises:
            ValueError: If labels are to be protected and nothing says where they stand.
        """
        if self.trainable is not None:
            return np.asarray(self.trainable(problem.rows, protect), bool)
        if protect:
            raise ValueError(
                f"protect names {', '.join(protect)}, and nothing says which tokens those are: "
                "leave protect out."
            )
        length = embeddings_of(problem.cond).shape[1]
        return np.broadcast_to(np.arange(length) > 0, (problem.size, length))

    def known_states(
        self, problem: Problem, steps: tuple[int, ...], numbers: np.ndarray
    ) -> States | None:
        """Returns the states of a chunk, where they were computed for just this problem."""
        if self.known is None or self.known[0] is not problem or self.known[1] != tuple(steps):
            return None
        chunks = chunk_numbers(problem.size, self.chunk)
        return next(
            part
            for part, rows in zip(self.known[2], chunks, strict=True)
            if np.array_equal(rows, numbers)
        )


class Mitigation(Protocol):
    """A cure: a frozen dataclass of hyper-parameters; at strength 0 it returns the same problem.

    Attributes:
        stage: What it changes: ``text`` (rows), ``params``, ``cond``, ``noise``, ``guidance``, or
            ``reject`` (which images are given out).
        needs: What it cannot do without: out of ``eps_uncond``, ``maps``, ``text``, ``tokens``.
        evaluates: Whether applying it evaluates the network; what does not is cheap enough for all
            prompts at once, so that chunks change no draw.
        cost: What it costs beyond sampling, in words.
    """

    stage: ClassVar[Stage]
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = ""
    evaluates: ClassVar[bool] = False

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem: ...


class Chain(NamedTuple):
    """Mitigations applied one after the other.

    Attributes:
        text: How it is written, such as ``embedding_noise:scale=0.3+guidance_delay``.
        mitigations: In order; none of them is the prompt as asked.
    """

    text: str
    mitigations: tuple[Mitigation, ...]

    @property
    def evaluates(self) -> bool:
        """Whether one of them evaluates the network."""
        return any(mitigation.evaluates for mitigation in self.mitigations)

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        """Applies them; the first one draws with ``key`` itself.

        Raises:
            ValueError: If one needs what the model lacks.
        """
        for place, mitigation in enumerate(self.mitigations):
            refuse_unserved(mitigation, problem)
            own = key if place == 0 else jax.random.fold_in(key, place)
            problem = mitigation(problem, setup, own)
        return problem


def refuse_unserved(mitigation: Mitigation, problem: Problem) -> None:
    """Refuses a mitigation that needs a null condition where there is none.

    Raises:
        ValueError: Naming it.
    """
    if "eps_uncond" in mitigation.needs and problem.null_cond is None:
        raise ValueError(
            f"{type(mitigation).__name__} needs an unconditional prediction, and this model was "
            "trained without a null condition: leave it out, or give a null condition."
        )


def parse_chain(
    registry: Registry[Mitigation],
    text: str,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Chain:
    """Returns the mitigations that ``NAME:field=value+NAME`` describes.

    Args:
        registry: Where names are looked up.
        text: Mitigations joined by ``+``.
        defaults: Name → fields that hold where the text does not give them.

    Raises:
        ValueError: If one is unknown, or the order is impossible.
    """
    parts = [registry.parse(part, defaults) for part in split_outside(text, "+")]
    check_order(parts, text)
    return Chain(text, tuple(parts))


def check_order(mitigations: Sequence[Mitigation], text: str = "") -> None:
    """Refuses an order in which a later mitigation would undo an earlier one.

    Raises:
        ValueError: Naming the two stages.
    """
    for first, second in itertools.pairwise(mitigations):
        if _RANK[second.stage] < _RANK[first.stage]:
            raise ValueError(
                f"{text or 'the mitigations'}: {type(second).__name__} changes the {second.stage}, "
                f"from which the {first.stage} that {type(first).__name__} changed is made anew: "
                "put it first."
            )

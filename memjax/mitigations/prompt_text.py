"""Baselines that perturb a caption: strings in, strings out, before any text encoder.

Each takes a NumPy generator and how many insertions are made, one after the other at uniform
positions between words (or at either end); 0 returns the caption as it is. The caption's own words
keep their order.

References:
    Somepalli et al., NeurIPS 2023, arXiv 2305.20086, section 5 (random token or number addition,
    caption word repetition); Wen et al., ICLR 2024, section 4.2, compare with them at 1 to 8
    insertions.

.. note:: The published scripts draw with global random state; here the generator decides
    everything, so that a seed gives the same captions on every machine.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import numpy as np

from memjax.core.types import Array
from memjax.mitigations.base import Mitigation, Problem, Setup

_MOST = 100_000


def add_random_words(
    caption: str, rng: np.random.Generator, count: int, words: Sequence[str]
) -> str:
    """Inserts ``count`` words drawn from ``words``, such as those of other captions.

    Args:
        caption: The prompt.
        rng: Decides words and places.
        count: Insertions, ≥ 0.
        words: What to draw from, each once.

    Raises:
        ValueError: If ``count`` is negative, or there is nothing to draw from.
    """
    return _inserted(caption, rng, _drawn(rng, count, words, "words"))


def add_random_numbers(caption: str, rng: np.random.Generator, count: int) -> str:
    """Inserts ``count`` numbers drawn from 0 to 99,999.

    Raises:
        ValueError: If ``count`` is negative.
    """
    numbers = rng.integers(0, _MOST, _checked(count))
    return _inserted(caption, rng, [str(number) for number in numbers])


def repeat_words(caption: str, rng: np.random.Generator, count: int) -> str:
    """Inserts ``count`` words drawn from the caption itself.

    Raises:
        ValueError: If ``count`` is negative, or the caption holds no word.
    """
    return _inserted(caption, rng, _drawn(rng, count, caption.split(), "caption's words"))


def add_random_tokens(
    caption: str, rng: np.random.Generator, count: int, pieces: Sequence[str]
) -> str:
    """Inserts ``count`` pieces drawn from a tokenizer's vocabulary.

    Args:
        caption: The prompt.
        rng: Decides pieces and places.
        count: Insertions, ≥ 0.
        pieces: The vocabulary as text, without special tokens and without end-of-word marks.

    Raises:
        ValueError: If ``count`` is negative, or there is no piece.

    .. note:: A piece from within words may be read as several tokens when it stands alone, as with
        the published scripts, which decode an id to text too.
    """
    return _inserted(caption, rng, _drawn(rng, count, pieces, "pieces"))


def _checked(count: int) -> int:
    if count < 0:
        raise ValueError(f"count is {count}, expected at least 0 insertions.")
    return count


def _drawn(rng: np.random.Generator, count: int, pool: Sequence[str], name: str) -> list[str]:
    if _checked(count) and not len(pool):
        raise ValueError(f"the {name} to draw from are none, expected at least one: give some.")
    return [pool[int(i)] for i in rng.integers(0, len(pool), count)] if count else []


def _inserted(caption: str, rng: np.random.Generator, added: Sequence[str]) -> str:
    """Puts each word at a uniform place among those that are there by then."""
    if not added:
        return caption
    words = caption.split()
    for word in added:
        words.insert(int(rng.integers(0, len(words) + 1)), word)
    return " ".join(words)


@dataclasses.dataclass(frozen=True)
class TextInsertion(Mitigation):
    """Something inserted into the caption before it is encoded.

    Attributes:
        count: Insertions; 0 is the identity.
    """

    stage: ClassVar = "text"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    cost: ClassVar[str] = "free"

    count: int = 4

    def __post_init__(self) -> None:
        _checked(self.count)

    @abc.abstractmethod
    def rewrite(self, caption: str, rng: np.random.Generator, setup: Setup) -> str:
        """Returns the caption with its insertions."""

    def __call__(self, problem: Problem, setup: Setup, key: Array) -> Problem:
        if not self.count:
            return problem
        if setup.encode is None:
            raise ValueError(
                f"{type(self).__name__} changes captions, and nothing here encodes them: take a "
                "mitigation of conditions."
            )
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        rows = []
        for number, row in enumerate(problem.rows):
            if not isinstance(row.get("caption"), str):
                raise ValueError(
                    f"prompt {row.get('id', number)!r} has no caption, which "
                    f"{type(self).__name__} needs: give prompts in words."
                )
            rng = np.random.default_rng([*seed, number])
            rows.append({**row, "caption": self.rewrite(row["caption"], rng, setup)})
        return problem._replace(rows=rows, cond=setup.encode(rows))


class RandomWords(TextInsertion):
    """Random words of other captions inserted into the caption.

    References:
        Somepalli et al., NeurIPS 2023, section 5.
    """

    def rewrite(self, caption: str, rng: np.random.Generator, setup: Setup) -> str:
        return add_random_words(caption, rng, self.count, setup.words)


class RandomNumbers(TextInsertion):
    """Random numbers inserted into the caption.

    References:
        Somepalli et al., NeurIPS 2023, section 5.
    """

    def rewrite(self, caption: str, rng: np.random.Generator, setup: Setup) -> str:
        del setup
        return add_random_numbers(caption, rng, self.count)


class WordRepetition(TextInsertion):
    """Words of the caption repeated at random places of it.

    References:
        Somepalli et al., NeurIPS 2023, section 5.
    """

    def rewrite(self, caption: str, rng: np.random.Generator, setup: Setup) -> str:
        del setup
        return repeat_words(caption, rng, self.count)


class RandomTokens(TextInsertion):
    """Random pieces of the tokenizer's vocabulary inserted into the caption.

    References:
        Somepalli et al., NeurIPS 2023, section 5.
    """

    def rewrite(self, caption: str, rng: np.random.Generator, setup: Setup) -> str:
        return add_random_tokens(caption, rng, self.count, setup.pieces)

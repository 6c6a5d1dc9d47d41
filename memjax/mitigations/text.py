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

from collections.abc import Sequence

import numpy as np

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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax.mitigations import (
    add_random_numbers,
    add_random_tokens,
    add_random_words,
    repeat_words,
)

CAPTION = "the  old boat, at sea"
POOL = ("house", "red", "tree")


def rng(seed=0):
    return np.random.default_rng(seed)


KINDS = {
    "words": lambda text, seed, n: add_random_words(text, rng(seed), n, POOL),
    "numbers": lambda text, seed, n: add_random_numbers(text, rng(seed), n),
    "repeated": lambda text, seed, n: repeat_words(text, rng(seed), n),
    "tokens": lambda text, seed, n: add_random_tokens(text, rng(seed), n, ("ab", "##")),
}


def without(words, inserted):
    """Whether ``inserted`` is ``words`` with other words between them, in their order."""
    left = iter(inserted)
    return all(any(word == other for other in left) for word in words)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50), count=st.integers(1, 8))
def test_a_number_of_words_is_added_and_the_others_keep_their_order(kind, seed, count):
    made = KINDS[kind](CAPTION, seed, count).split()
    assert len(made) == len(CAPTION.split()) + count
    assert without(CAPTION.split(), made)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_added_is_the_caption_itself_and_the_seed_decides(kind):
    assert KINDS[kind](CAPTION, 0, 0) == CAPTION
    assert KINDS[kind](CAPTION, 3, 4) == KINDS[kind](CAPTION, 3, 4)
    assert len({KINDS[kind](CAPTION, seed, 4) for seed in range(8)}) > 1


def test_what_is_added_comes_from_where_it_should():
    added = set(add_random_words("", rng(), 40, POOL).split())
    assert added == set(POOL)
    numbers = [int(text) for text in add_random_numbers("", rng(), 300).split()]
    assert min(numbers) >= 0
    assert 50_000 < max(numbers) < 100_000
    assert set(repeat_words("a b", rng(), 30).split()) == {"a", "b"}


def test_places_are_uniform_over_all_gaps():
    places = [
        add_random_words("a b c", rng(seed), 1, ("x",)).split().index("x") for seed in range(400)
    ]
    # 100 expected in each of four gaps, standard deviation 8.7: five of them.
    assert all(abs(places.count(gap) - 100) < 44 for gap in range(4))


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="count is -1, expected at least 0"):
        add_random_numbers(CAPTION, rng(), -1)
    with pytest.raises(ValueError, match="words to draw from are none"):
        add_random_words(CAPTION, rng(), 1, ())
    with pytest.raises(ValueError, match="caption's words to draw from are none"):
        repeat_words("  ", rng(), 1)
    assert add_random_words(CAPTION, rng(), 0, ()) == CAPTION

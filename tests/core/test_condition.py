import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core import condition
from memjax.core.guidance import broadcast_cond
from memjax.core.types import TextCond
from tests.closed_forms import tokens

COND = tokens(0, 2, padded=1)
PLAIN = COND.embeddings
PAIR = (COND.embeddings, COND.mask)
TEXT = TextCond(*COND, jnp.array([2, 4]))


@pytest.mark.parametrize(
    "cond", [COND, TEXT, PAIR, PLAIN], ids=["token_cond", "text_cond", "pair", "array"]
)
def test_embeddings_are_read_and_replaced_in_place(cond):
    np.testing.assert_array_equal(condition.embeddings_of(cond), PLAIN)
    replaced = condition.with_embeddings(cond, 2 * PLAIN)
    assert type(replaced) is type(cond)
    np.testing.assert_array_equal(condition.embeddings_of(replaced), 2 * PLAIN)
    np.testing.assert_array_equal(condition.token_mask(replaced), condition.token_mask(cond))


def test_mask_is_all_true_without_one():
    np.testing.assert_array_equal(condition.token_mask(PLAIN), np.ones(PLAIN.shape[:2], bool))
    np.testing.assert_array_equal(condition.token_mask((PLAIN, COND.mask.astype(int))), COND.mask)


def test_rows_are_repeated_in_place_not_tiled():
    repeated = condition.repeat_cond(COND, 3)
    assert condition.num_rows(repeated) == 6
    np.testing.assert_array_equal(repeated.embeddings[2], PLAIN[0])
    np.testing.assert_array_equal(repeated.embeddings[3], PLAIN[1])
    taken = condition.take_rows(repeated, slice(3, 4))
    np.testing.assert_array_equal(taken.embeddings, PLAIN[1:])
    np.testing.assert_array_equal(condition.take_rows(COND, jnp.array([1])).mask, COND.mask[1:])


def test_where_a_text_ends_goes_along_with_its_rows():
    assert condition.text_length(COND) is None
    assert condition.text_length(PAIR) is None
    repeated = condition.repeat_cond(TEXT, 2)
    np.testing.assert_array_equal(condition.text_length(repeated), [2, 2, 4, 4])
    last = condition.take_rows(repeated, jnp.array([3]))
    np.testing.assert_array_equal(condition.text_length(last), [4])
    np.testing.assert_array_equal(condition.text_length(broadcast_cond(last, 3)), [4, 4, 4])
    moved = condition.with_embeddings(TEXT, 2 * PLAIN)
    np.testing.assert_array_equal(condition.text_length(moved), [2, 4])


@pytest.mark.parametrize("cond", [None, {"tokens": PLAIN}, PLAIN[0], (COND.mask,)])
def test_a_condition_without_tokens_is_refused(cond):
    with pytest.raises(ValueError, match=r"without \[batch, tokens, features\] embeddings: pass"):
        condition.embeddings_of(cond)

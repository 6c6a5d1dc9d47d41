import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core import condition
from tests.closed_forms import tokens

COND = tokens(0, 2, padded=1)
PLAIN = COND.embeddings
PAIR = (COND.embeddings, COND.mask)


@pytest.mark.parametrize("cond", [COND, PAIR, PLAIN], ids=["token_cond", "pair", "array"])
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


@pytest.mark.parametrize("cond", [None, {"tokens": PLAIN}, PLAIN[0], (COND.mask,)])
def test_a_condition_without_tokens_is_refused(cond):
    with pytest.raises(ValueError, match=r"without \[batch, tokens, features\] embeddings: pass"):
        condition.embeddings_of(cond)

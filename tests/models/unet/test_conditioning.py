"""Label rows and token ids → token conditions."""

import jax
import numpy as np
import pytest

from memjax.models.unet.conditioning import LabelTokens, TextTokens, null_labels, table_offsets


@pytest.fixture
def tokens():
    module = LabelTokens(sizes=(4, 3, 2), dim=5)
    params = module.init(jax.random.key(0), null_labels(3))["params"]
    return module, params


def test_tokens_are_bos_then_one_row_of_the_table_a_slot(tokens):
    module, params = tokens
    labels = np.array([[0, 0, 0], [3, 1, 1]], np.int32)
    cond = module.apply({"params": params}, labels)
    table, position = params["table"], params["position"]
    assert cond.embeddings.shape == (2, 4, 5)
    assert cond.mask.all()
    for row, ids in enumerate([[0, 4, 7], [3, 5, 8]]):
        expected = np.stack([params["bos"][0], *(table[i] for i in ids)]) + position
        np.testing.assert_allclose(cond.embeddings[row], expected, rtol=1e-6)


def test_changing_one_label_changes_one_token(tokens):
    module, params = tokens
    base = module.apply({"params": params}, np.array([[1, 1, 1]], np.int32)).embeddings[0]
    other = module.apply({"params": params}, np.array([[1, 2, 1]], np.int32)).embeddings[0]
    np.testing.assert_array_equal(np.any(base != other, axis=1), [False, False, True, False])


def test_every_slot_has_its_own_null(tokens):
    module, params = tokens
    null = module.apply({"params": params}, null_labels(3, batch=2))
    assert null.embeddings.shape == (2, 4, 5)
    untouched = null.embeddings[0] - params["position"]
    assert len(np.unique(np.round(untouched, 5), axis=0)) == 4


def test_ids_beyond_a_slot_never_reach_the_next_slot(tokens):
    module, params = tokens
    beyond = module.apply({"params": params}, np.array([[9, 9, 9]], np.int32))
    last = module.apply({"params": params}, np.array([[3, 2, 1]], np.int32))
    np.testing.assert_array_equal(beyond.embeddings, last.embeddings)


def test_refuses_rows_of_another_width(tokens):
    module, params = tokens
    with pytest.raises(ValueError, match=r"shape \(1, 4\), expected \[batch, 3\]"):
        module.apply({"params": params}, null_labels(4))


def test_text_tokens_mask_padding():
    module = TextTokens(vocabulary=10, max_length=4, dim=3)
    ids = np.array([[5, 6, 0], [7, 0, 0]], np.int32)
    params = module.init(jax.random.key(0), ids)["params"]
    cond = module.apply({"params": params}, ids)
    np.testing.assert_array_equal(cond.mask, ids != 0)
    expected = params["table"][5] + params["position"][0]
    np.testing.assert_allclose(cond.embeddings[0, 0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="5 tokens is longer than max_length=4"):
        module.apply({"params": params}, np.zeros((1, 5), np.int32))


def test_slots_of_one_table_share_its_rows():
    sizes, tables = (4, 3, 5, 3, 3), ("", "words", "", "words", "words")
    offsets, rows = table_offsets(sizes, tables)
    assert (offsets.tolist(), rows) == ([0, 4, 7, 4, 4], 12)
    module = LabelTokens(sizes, 5, tables)
    params = module.init(jax.random.key(0), null_labels(5))["params"]
    assert params["table"].shape == (12, 5)
    labels = np.array([[1, 2, 1, 2, 0]], np.int32)
    rest = module.apply({"params": params}, labels).embeddings[0] - params["position"]
    np.testing.assert_allclose(rest[2], rest[4], rtol=1e-5, atol=1e-6)  # one word, two positions
    np.testing.assert_allclose(rest[5], params["table"][4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tables", [(), ("", "", "")])
def test_without_shared_tables_nothing_changes(tokens, tables):
    module, params = tokens
    other = LabelTokens((4, 3, 2), 5, tables)
    labels = np.array([[3, 1, 1]], np.int32)
    np.testing.assert_array_equal(
        other.apply({"params": params}, labels).embeddings,
        module.apply({"params": params}, labels).embeddings,
    )
    offsets, rows = table_offsets((4, 3, 2), tables)
    assert (offsets.tolist(), rows) == ([0, 4, 7], 9)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (("a", "a", ""), r"slots of the table 'a' have 4 and 3 ids, expected one number"),
        (("a",), r"tables has 1 names for 3 slots"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tables, words):
    with pytest.raises(ValueError, match=words):
        table_offsets((4, 3, 2), tables)

"""Drawing all parameters at once gives the distribution of the module's own ``init``."""

import jax
import numpy as np
import pytest

from memjax.models.classifier import FindingClassifier
from memjax.models.initial import draw_params

X = np.zeros((1, 8, 8, 1), np.float32)
MODULE = FindingClassifier(num_outputs=3, width=64)


def test_same_tree_and_distribution_as_init():
    drawn = draw_params(MODULE, jax.random.key(0), X)
    init = jax.jit(MODULE.init)(jax.random.key(1), X)["params"]
    assert jax.tree.structure(drawn) == jax.tree.structure(init)
    for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(init), strict=True):
        assert a.shape == b.shape
        tolerance = 6 * np.std(b) / np.sqrt(b.size) + 1e-7  # six standard errors of the mean
        assert abs(np.mean(a) - np.mean(b)) <= 2 * tolerance
        assert abs(np.std(a) - np.std(b)) <= 2 * tolerance


def test_leaves_are_not_copies_of_one_another():
    drawn = draw_params(MODULE, jax.random.key(0), X)
    a, b = drawn["convs_2"]["kernel"], drawn["convs_3"]["kernel"]
    assert abs(np.corrcoef(np.ravel(a), np.ravel(b[:, :, : a.shape[2]]))[0, 1]) < 0.05


def test_key_decides():
    same = [draw_params(MODULE, jax.random.key(k), X)["head"]["kernel"] for k in (5, 5, 6)]
    np.testing.assert_array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])


def test_zero_names_start_at_zero():
    drawn = draw_params(MODULE, jax.random.key(0), X, zero=("head",))
    assert not np.any(drawn["head"]["kernel"])
    assert np.any(drawn["convs_0"]["kernel"])


def test_refuses_to_be_jitted():
    with pytest.raises(ValueError, match="called under jit"):
        jax.jit(lambda key: draw_params(MODULE, key, X))(jax.random.key(0))

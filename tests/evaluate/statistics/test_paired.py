"""The paired test: one value a prompt, exact for few prompts."""

import itertools

import numpy as np
import pytest
from scipy import stats

from memjax.evaluate.statistics.paired import cluster_changes, paired_test


def _pairs(num_prompts, per_prompt, seed=0, shift=-0.5):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=num_prompts * per_prompt)
    prompt_effect = np.repeat(rng.normal(shift, 0.5, num_prompts), per_prompt)
    return before, before + prompt_effect, np.repeat(np.arange(num_prompts), per_prompt)


def _exact_p(change):
    """All sign flips of the ranks."""
    ranks = stats.rankdata(np.abs(change))
    total = ranks.sum()
    observed = min(ranks[change > 0].sum(), total - ranks[change > 0].sum())
    sums = [ranks @ s for s in itertools.product([0, 1], repeat=len(change))]
    return np.mean([min(s, total - s) <= observed + 1e-9 for s in sums]), observed


@pytest.mark.parametrize("num", [5, 8])
def test_p_value_is_exact_for_few_prompts(num):
    before, after, prompts = _pairs(num, 4, seed=num)
    found = paired_test(before, after, prompts)
    want, statistic = _exact_p(cluster_changes(before, after, prompts))
    assert found.p_value == pytest.approx(want)
    assert found.statistic == pytest.approx(statistic)
    assert found.n == num


def test_generations_of_a_prompt_are_not_counted_as_independent():
    before, after, prompts = _pairs(6, 30)
    assert paired_test(before, after).p_value < 1e-6
    assert paired_test(before, after, prompts).p_value >= 2 / 2**6


def test_change_and_interval():
    before, after, prompts = _pairs(200, 3, shift=-1.0)
    found = paired_test(before, after, prompts)
    assert found.low < found.median_change < found.high
    assert found.low < -1.0 < found.high
    # the standard error of a median of 200 normals with sd 0.5 is 1.25 · 0.5 / √200 = 0.044
    assert found.high - found.low == pytest.approx(4 * 0.044, rel=0.35)
    assert found.p_value == pytest.approx(
        stats.wilcoxon(cluster_changes(before, after, prompts)).pvalue
    )


def test_unchanged_prompts_are_left_out_of_the_test_but_not_of_the_median():
    before = np.zeros(9)
    after = np.array([0, 0, 0, 0, 0, -1.0, -2, -3, -4])
    found = paired_test(before, after)
    assert found.n == 4
    assert found.p_value == pytest.approx(2 / 2**4)
    assert found.median_change == 0.0
    still = paired_test(before, before)
    assert still == (0.0, 1.0, 0.0, 0.0, 0.0, 0)


def test_tied_changes_are_exact_as_well():
    after = np.array([-1.0, -1, -1, -2, 1, -2])
    assert paired_test(np.zeros(6), after).p_value == pytest.approx(_exact_p(after)[0])


def test_cluster_means_follow_the_sorted_ids():
    got = cluster_changes([0, 0, 0], [1, 2, 6], ["b", "a", "b"])
    np.testing.assert_allclose(got, [2, 3.5])


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"\(2,\) before and \(3,\) after"):
        paired_test([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="not finite"):
        paired_test([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match="1 clusters were given for 2"):
        paired_test([1, 2], [1, 2], ["a"])

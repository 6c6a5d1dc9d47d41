"""The exact interval of a proportion, against the binomial tails that define it."""

import pytest
from scipy import stats

from memjax.evaluate.statistics.bootstrap import proportion_interval


@pytest.mark.parametrize(("num", "of"), [(0, 30), (3, 30), (30, 30)])
def test_exact_proportions_leave_a_fortieth_on_each_side(num, of):
    found = proportion_interval(num, of)
    assert found.value == num / of
    if num:
        assert stats.binom.sf(num - 1, of, found.low) == pytest.approx(0.025)
    if num < of:
        assert stats.binom.cdf(num, of, found.high) == pytest.approx(0.025)


def test_a_proportion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 of 0"):
        proportion_interval(0, 0)

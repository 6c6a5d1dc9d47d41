import numpy as np
import pytest

from memjax.data.duplication import (
    content_groups,
    duplicate_weights,
    duplicated_rows,
    first_of_group,
    repeat_indices,
    sample_indices,
)


def test_weights_mark_the_asked_share():
    weights = duplicate_weights(0, 1000, 0.05, 5)
    assert np.unique(weights, return_counts=True)[1].tolist() == [950, 50]
    assert set(weights) == {1.0, 5.0}
    np.testing.assert_array_equal(weights, duplicate_weights(0, 1000, 0.05, 5))
    assert (weights != duplicate_weights(1, 1000, 0.05, 5)).any()


def test_duplicated_rows_are_drawn_at_the_papers_rate():
    num, draws = 1000, 200_000
    weights = duplicate_weights(3, num, 0.05, 5)
    drawn = sample_indices(7, weights, draws)
    share = (weights[drawn] == 5).mean()
    expected = 50 * 5 / (50 * 5 + 950)  # 4.1667 times uniform
    sigma = np.sqrt(expected * (1 - expected) / draws)
    assert abs(share - expected) < 4 * sigma
    counts = np.bincount(drawn, minlength=num)
    singles = counts[weights == 1]
    rate = draws / (50 * 5 + 950)
    assert abs(singles.mean() - rate) < 4 * np.sqrt(rate / 950)
    assert counts.min() > 0


def test_zero_weight_is_never_drawn():
    drawn = sample_indices(0, np.array([0.0, 1.0, 0.0, 3.0, 0.0]), 5000)
    assert set(drawn) == {1, 3}


def test_repeats_and_groups():
    assert repeat_indices([2, 0, 1]).tolist() == [0, 0, 2]
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
    images[3] = images[1]
    images[4] = images[1]
    groups = content_groups(images)
    assert groups.tolist() == [0, 1, 2, 1, 1]
    assert duplicated_rows(groups).tolist() == [False, True, False, True, True]
    assert not duplicated_rows(groups, 4).any()
    assert first_of_group(groups).tolist() == [0, 1, 2]


def test_one_changed_bit_is_another_group():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[1, 3, 3, 0] = 1
    assert content_groups(images).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: duplicate_weights(0, 10, 1.5), "fraction is 1.5"),
        (lambda: duplicate_weights(0, 10, 0.5, 0), "factor is 0"),
        (lambda: sample_indices(0, np.zeros(3), 1), "All sampling weights are zero"),
        (lambda: sample_indices(0, np.array([1.0, -1.0]), 1), "at least zero"),
        (lambda: sample_indices(0, np.array([1.0, np.nan]), 1), "finite"),
        (lambda: repeat_indices([0, 0]), "All repeats are zero"),
        (lambda: repeat_indices([1, -1]), "at least zero"),
        (lambda: repeat_indices([0.5, 1.0]), "whole number"),
    ],
)
def test_impossible_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

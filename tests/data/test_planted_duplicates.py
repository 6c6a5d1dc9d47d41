"""How often each row is shown: by folder, by number, by the table, or by weight."""

import numpy as np
import pytest

from memjax.data.order import row_draws, row_order
from memjax.data.planted_duplicates import plant_duplicates
from memjax.data.records import image_record

ROOT = "/pictures"
RECORDS = [
    image_record(f"{ROOT}/{folder}/{i}.png", f"{folder}/{i}.png", caption="x", repeats=repeats)
    for folder, repeats in (("twice", 5), ("others", 1))
    for i in range(4 if folder == "twice" else 36)
]


def plant(**settings):
    return plant_duplicates(RECORDS, ROOT, seed=3, **settings)


def test_nothing_is_planted_by_default():
    planted = plant()
    assert not planted.duplicated.any()
    assert planted.trained.all()
    np.testing.assert_array_equal(planted.repeats, 1)
    assert planted.weights is None


@pytest.mark.parametrize("folder", ["twice", "twice/", "/twice"])
def test_a_sub_folder(folder):
    planted = plant(memorized=folder, repeats=7)
    np.testing.assert_array_equal(planted.duplicated, np.arange(40) < 4)
    np.testing.assert_array_equal(planted.repeats, np.where(np.arange(40) < 4, 7, 1))


def test_the_tables_own_repeats():
    np.testing.assert_array_equal(
        plant(memorized="repeats", repeats=99).repeats, np.where(np.arange(40) < 4, 5, 1)
    )


def test_a_number_of_rows_drawn_by_seed():
    first, again = (plant(memorized="6", repeats=2) for _ in range(2))
    np.testing.assert_array_equal(first.duplicated, again.duplicated)
    assert first.duplicated.sum() == 6
    other = plant_duplicates(RECORDS, ROOT, seed=4, memorized="6", repeats=2)
    assert (first.duplicated != other.duplicated).any()


def test_others_are_a_multiple_of_the_repeats():
    planted = plant(memorized="2", repeats=4, others_ratio=3.0)
    assert planted.repeats[planted.duplicated].tolist() == [4, 4]
    others = planted.repeats[~planted.duplicated]
    assert others.sum() == 3 * 8
    assert set(others) == {0, 1}
    assert planted.trained.sum() == 2 + 24
    none = plant(memorized="2", repeats=4, others_ratio=0.0)
    assert none.trained.sum() == 2


def test_weights_of_the_paper():
    """Share of draws of a duplicated row: 5 / (0.05 · 5 + 0.95) = 4.1667 of the uniform one."""
    planted = plant(fraction=0.05, factor=5.0)
    assert planted.duplicated.sum() == 2
    np.testing.assert_array_equal(planted.weights, np.where(planted.duplicated, 5.0, 1.0))
    stream = row_draws(row_order(40, 0, None, planted.weights), 5000)
    rows = next(stream).row
    expected = 5 / (2 * 5 + 38)
    for row in np.flatnonzero(planted.duplicated):
        sigma = np.sqrt(expected * (1 - expected) / len(rows))
        assert abs((rows == row).mean() - expected) < 4 * sigma


@pytest.mark.parametrize("repeats", [None, np.arange(1, 41)])
def test_the_order_depends_on_seed_and_step_alone(repeats):
    order = row_order(40, 9, repeats)
    whole = [next(row_draws(order, 8, step)) for step in range(30)]
    stream = row_draws(row_order(40, 9, repeats), 8, 11)
    for step in range(11, 30):
        drawn = next(stream)
        np.testing.assert_array_equal(drawn.row, whole[step].row)
        np.testing.assert_array_equal(drawn.draw, whole[step].draw)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"memorized": "twic"}, "did you mean 'twice'|twic"),
        ({"memorized": "40"}, "takes all 40"),
        ({"memorized": "0"}, "no row was asked for"),
        ({"memorized": "2", "repeats": 10, "others_ratio": 3.0}, "60 other images.*at most 1.9"),
        ({"memorized": "2", "fraction": 0.1}, "two ways"),
        ({"memorized": "2", "repeats": 0}, "repeats is 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        plant(**settings)

"""An expectation is said to hold, to fail, or to be undecided, with the figures."""

import pytest

from memjax.studies.sweep.expectations import check_expectations


def row(key, seed, value, order=0, name="copies"):
    metrics = {} if value is None else {name: {"value": value}}
    return {"key": key, "seed": seed, "order": order, "metrics": metrics}


def compare(*pairs):
    rows = [row(k, s, v) for s, pair in enumerate(pairs) for k, v in zip("ab", pair, strict=True)]
    said = {"text": "a above b", "metric": "copies", "arms": ["a", "b"], "trend": ""}
    (found,) = check_expectations([said], rows)
    return found


@pytest.mark.parametrize(
    ("pairs", "holds"),
    [
        (((0.9, 0.1), (0.8, 0.2)), True),
        (((0.9, 0.1), (0.2, 0.3)), None),  # not in every seed
        (((0.1, 0.9), (0.3, 0.2)), False),
        (((0.5, 0.5),), False),
        (((0.5, None),), None),
    ],
)
def test_a_comparison_must_hold_in_every_seed(pairs, holds):
    assert compare(*pairs)["holds"] is holds


def test_the_figures_are_given():
    assert compare((0.9, 0.1), (0.8, 0.25))["because"] == (
        "seed 0: 0.90 against 0.10; seed 1: 0.80 against 0.25"
    )
    assert "copies was not measured" in compare((None, None))["because"]


@pytest.mark.parametrize(
    ("values", "trend", "holds"),
    [
        ((0.1, 0.2, 0.4), "rises", True),
        ((0.1, 0.2, 0.4), "falls", False),
        ((0.4, 0.2, 0.1), "falls", True),
        ((0.2, 0.2, 0.2), "rises", False),
        ((0.2, 0.4), "rises", None),  # two points are no trend
    ],
)
def test_a_trend_follows_the_order_of_the_arms(values, trend, holds):
    rows = [row(f"k{i}", 0, v, order=i) for i, v in enumerate(values)]
    said = {"text": "t", "metric": "copies", "arms": [], "trend": trend}
    (found,) = check_expectations([said], list(reversed(rows)))
    assert found["holds"] is holds
    assert found["text"] == "t"

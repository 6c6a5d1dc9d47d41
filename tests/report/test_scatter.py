"""Scatter, pairs and dots: pixels show what was given, hostile input gives a sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from memjax.evaluate.statistics.bootstrap import Estimate
from memjax.evaluate.statistics.roc import auc
from memjax.report.charts.dot_plot import dot_panels, mean_of, repair_panels
from memjax.report.charts.paired import paired_dots
from memjax.report.charts.scatter import family_bars, scatter_with_margins
from memjax.report.style import elided, family_of, family_styles, printable
from memjax.report.tables import (
    dots_table,
    families_table,
    histogram_table,
    magnitude_table,
    paired_table,
    roc_table,
    scatter_table,
    token_table,
    wall_table,
)

ORANGE, BLUE, GREEN = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)
HOSTILE = "<script>alert('$x')</script>\"\n日本語\x00\u202e" + "w" * 200
FAMILIES = ("memorized", "once", "held_out", "near_miss", "random")


def _pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _count(pixels, color, near=3):
    return int((np.abs(pixels - color).max(-1) <= near).sum())


def _groups(count=20):
    rng = np.random.default_rng(0)
    return {name: (rng.random(count), rng.random(count)) for name in FAMILIES}


def test_every_family_is_drawn_in_its_own_color_and_shape():
    pixels = _pixels(scatter_with_margins(_groups(), "x", "y", "title", threshold=0.5))
    for color in (ORANGE, BLUE, GREEN):
        assert _count(pixels, color) > 500  # its bars in the margins
    assert pixels[[0, -1]].min() == 255  # nothing is cut off
    assert pixels[:, [0, -1]].min() == 255
    styles = family_styles(FAMILIES)
    for field in ("color", "marker", "line"):
        assert len({str(getattr(style, field)) for style in styles.values()}) == len(FAMILIES)


def test_a_family_keeps_its_style_under_any_of_its_names():
    assert family_styles(["prompts trained once", "memorized"])["memorized"].color == "#D55E00"
    near = "one detail beside a memorized prompt"
    assert family_of(near) == "near_miss"
    assert family_styles([near, "memorized"])[near] == family_styles(["near_miss"])["near_miss"]
    assert family_of("details mixed at random") == "random"
    same = family_styles(["once", "trained once", "other", "memorized, after"])
    assert len(set(same.values())) == 4
    with pytest.raises(ValueError, match="0 groups were given"):
        family_styles([])
    with pytest.raises(ValueError, match="9 groups were given, expected 1 to 8"):
        family_styles([f"g{i}" for i in range(9)])


def test_threshold_out_of_sight_is_brought_into_sight():
    groups = {"once": ([0.0, 1.0], [0.0, 0.1])}
    with_line = scatter_with_margins(groups, "x", "y", "t", threshold=5.0)
    assert with_line != scatter_with_margins(groups, "x", "y", "t")
    dark = (_pixels(with_line)[:, 300:900].max(-1) < 90).sum(1)
    assert dark.max() > 250  # a dashed line across: more than half of 600 pixels


def test_points_without_a_value_are_left_out():
    x, y = np.array([0.1, np.nan, 0.3]), np.array([0.1, 0.2, np.inf])
    kept = {"memorized": ([0.1], [0.1])}
    assert scatter_with_margins({"memorized": (x, y), "once": ([], [])}, "x", "y", "t") == (
        scatter_with_margins(kept, "x", "y", "t")
    )
    with pytest.raises(ValueError, match="no group holds a point"):
        scatter_with_margins({"once": ([np.nan], [1.0])}, "x", "y", "t")
    with pytest.raises(ValueError, match="group 'once' has 2 x and 1 y"):
        scatter_with_margins({"once": ([1, 2], [1])}, "x", "y", "t")


def test_hostile_names_are_drawn():
    groups = {HOSTILE: ([1.0, 2.0], [1.0, 1.0])}
    assert scatter_with_margins(groups, HOSTILE[:40], "y", HOSTILE).startswith(b"\x89PNG")
    assert paired_dots([1.0], [0.5], [HOSTILE], "y", None).startswith(b"\x89PNG")
    family = {"name": HOSTILE, "title": HOSTILE, "num": 3, "auc": 0.5}
    assert family_bars([family]).startswith(b"\x89PNG")
    assert "\x00" not in printable(HOSTILE)
    assert "日" not in printable(HOSTILE)
    assert len(elided(HOSTILE, 40)) <= 40
    assert elided("AP, female, 43, Cardiomegaly; marker K1 Q1", 30).endswith("marker K1 Q1")
    assert elided("short", 30) == "short"


def test_pairs_show_both_ends_and_the_median():
    before, after = np.array([0.9, 0.8, np.nan]), np.array([0.2, 0.9, 0.1])
    few = _pixels(paired_dots(before, after, ["a", "b", "c"], "likeness", 0.01, threshold=0.5))
    assert _count(few, ORANGE) > 300
    assert _count(few, BLUE) > 300
    many = paired_dots(np.ones(60), np.zeros(60), ["p"] * 60, "likeness", 1e-9, threshold=0.5)
    assert _count(_pixels(many), (0x1B, 0x1F, 0x24)) > 2000  # the thick median line
    with pytest.raises(ValueError, match="2 values before, 1 after and 1 names"):
        paired_dots([1, 2], [1], ["a"], "y", None)
    with pytest.raises(ValueError, match="no pair has two finite values"):
        paired_dots([np.nan], [1.0], ["a"], "y", None)


def test_family_bars_leave_out_what_was_not_measured():
    one = {"name": "once", "num": 5, "auc": 0.9, "auc_low": 0.8, "auc_high": 1.0}
    unknown = {"name": "random", "num": 0, "auc": None}
    assert family_bars([one, unknown]) == family_bars([one])
    with pytest.raises(ValueError, match="no family has an AUC"):
        family_bars([unknown])


def test_dots_mean_over_known_seeds_and_empty_panels():
    assert mean_of([Estimate(0.2), Estimate(None), Estimate(0.4)]) == pytest.approx(0.3, rel=1e-15)
    assert mean_of([Estimate(float("nan"))]) is None
    blank = dot_panels({"x": {"a": [Estimate(None)]}}, write_values=True)
    assert _count(_pixels(blank), BLUE) == 0
    with pytest.raises(ValueError, match="no arm was given"):
        dot_panels({})
    spread = {"a": [Estimate(0.1, 0.0, 0.2), Estimate(0.3, 0.2, 0.4)], "b": [Estimate(0.5)]}
    pixels = _pixels(dot_panels({"x": spread}, seeds=["0", "1"], shares=True))
    assert _count(pixels, BLUE) > 100
    assert _count(pixels, GREEN) > 100


def test_repairs_become_panels():
    repair = {
        "copy_rate_before": 0.7,
        "copy_rate_before_low": 0.5,
        "copy_rate_before_high": 0.8,
        "label_agreement_before": None,
        "arms": [{"name": "embedding_noise", "copy_rate_after": 0.2}],
    }
    panels = repair_panels(repair)
    assert list(panels) == ["Copies among images of memorized prompts"]
    rows = panels["Copies among images of memorized prompts"]
    assert rows == {
        "no repair": [Estimate(0.7, 0.5, 0.8)],
        "embedding noise": [Estimate(0.2, None, None)],
    }
    assert repair_panels({}) == {}


def test_tables_hold_what_is_drawn():
    groups = _groups(3)
    table = scatter_table(groups, "m", "s")
    assert table["group"] == [name for name in FAMILIES for _ in range(3)]
    np.testing.assert_array_equal(table["m"], np.concatenate([x for x, _ in groups.values()]))
    np.testing.assert_array_equal(table["s"], np.concatenate([y for _, y in groups.values()]))
    pairs = paired_table([1.0], [0.5], ["p"], "cosine")
    assert pairs == {"prompt": ["p"], "cosine before": [1.0], "cosine after": [0.5]}
    steps = np.arange(6.0).reshape(2, 3)
    curve = magnitude_table({"g": steps}, "v")
    assert curve["prompt (number)"] == [1, 1, 1, 2, 2, 2]
    assert curve["step"] == [1, 2, 3, 1, 2, 3]
    assert curve["v"] == steps.ravel().tolist()
    wall = wall_table(["a", "b", "c"], [0.2, np.nan, 0.9], [False, False, True], [5, 6, 7])
    assert wall["prompt"] == ["c", "a", "b"]
    assert wall["copy"] == [True, False, False]
    assert wall["nearest training image (row)"] == [7, 5, 6]
    bars = histogram_table({"g": [0.5, 2.5]})
    assert bars == {"group": ["g", "g"], "calibrated distance": [0.5, 2.5]}
    tokens = token_table(["a", "b"], [3.0, 1.0])
    assert tokens["share"] == [0.75, 0.25]
    assert token_table(["a"], [0.0])["share"] == [0.0]
    dots = dots_table({"q": {"arm": [Estimate(1.0, 0.5, 2.0)]}}, ["7"])
    assert [column[0] for column in dots.values()] == ["q", "arm", "7", 1.0, 0.5, 2.0]
    family = families_table([{"name": "once", "num": 3, "auc": 0.5}])
    assert (family["family"], family["prompts"], family["auc_low"]) == (["once"], [3], [None])


def test_roc_table_encloses_the_area_it_is_drawn_with():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40), np.arange(40) % 3 == 0
    table = roc_table({"c": (scores, labels)})
    x, y = table["false alarms (share)"], table["memorized found (share)"]
    area = np.sum(np.diff(x) * (np.array(y[1:]) + y[:-1]) / 2)
    assert area == pytest.approx(float(auc(scores, labels)), abs=1e-12)

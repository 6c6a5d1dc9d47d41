"""Figures are PNGs whose pixels show what was given."""

import io

import numpy as np
import pytest
from PIL import Image

from memjax.report.charts.curves import (
    magnitude_curves,
    roc_curves,
    similarity_histogram,
    token_bars,
)
from memjax.report.charts.image_grid import before_after, pairs_wall

ORANGE, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


def _pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _share(pixels, color):
    return (np.abs(pixels - color).max(-1) <= 3).mean()


def _films(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 16, 16, 1)).astype(np.float32)


def test_pairs_wall_frames_copies_only():
    near = _films(3)
    captions = ["one", "two", "three"]
    none = _pixels(pairs_wall(near, near, captions=captions, copies=[False] * 3))
    two = _pixels(pairs_wall(near, near, captions=captions, copies=[True, False, True]))
    assert _share(none, ORANGE) == 0
    assert _share(two, ORANGE) > 0.008  # the words alone are 0.003


def test_difference_is_black_where_images_agree():
    near = np.full((1, 16, 16, 1), 0.3, np.float32)
    same = _pixels(pairs_wall(near, near, captions=["x"]))
    other = _pixels(pairs_wall(near + 1, near, captions=["x"]))
    rows = slice(int(same.shape[0] * 0.75), int(same.shape[0] * 0.9))  # within the third image
    middle = int((1.12 + 1.0) * 200)  # the image starts 1.12 in from the left and is 2 in wide
    assert same[rows, middle].max() <= 10
    assert other[rows, middle].min() > 150


def test_grey_values_run_from_black_to_white():
    ramp = np.array([[[-1.0], [1.0]]], np.float32)[None].repeat(2, 1)
    png = _pixels(pairs_wall(ramp, ramp, captions=["x"]))
    row = png[int(png.shape[0] * 0.25)]
    left, right = row[int(1.6 * 200)], row[int(2.6 * 200)]
    np.testing.assert_array_equal([left, right], [[0] * 3, [255] * 3])


def test_before_after_and_wrapping_grow_the_page():
    films = _films(7)
    kwargs = {"captions": ["a long caption " * 8] * 7, "before_notes": ["heart: seen"] * 7}
    one = _pixels(before_after(films, films, films, columns=6, **kwargs))
    two = _pixels(before_after(films[:6], films[:6], films[:6], columns=6,
                               captions=["a long caption " * 8] * 6))  # fmt: skip
    assert one.shape[0] > 1.9 * two.shape[0]
    assert one.shape[1] <= 9.8 * 200 + 1


def test_curves_and_bars_use_both_colors():
    rng = np.random.default_rng(1)
    groups = {"memorized": rng.random((4, 20)) + 1, "others": rng.random((9, 20))}
    scores = np.r_[rng.normal(2, 1, 20), rng.normal(size=40)], np.r_[np.ones(20), np.zeros(40)]
    figures = [
        magnitude_curves(groups, window=(0, 5)),
        roc_curves({"first": scores, "all": scores}),
        token_bars(["Marker 1: K3", "View: AP"], [3.0, 1.0], highlight={"Marker 1: K3"}),
        similarity_histogram({"memorized": rng.random(30), "others": 1 + rng.random(30)}),
    ]
    for png in figures:
        pixels = _pixels(png)
        assert _share(pixels, ORANGE) > 0.0005
        assert _share(pixels, BLUE) > 0.0005
        assert pixels[[0, -1]].min() == 255  # nothing is cut off at the top or bottom edge
        assert pixels[:, [0, -1]].min() == 255  # nor at the sides


def test_bars_are_as_long_as_their_share():
    pixels = _pixels(token_bars(["a", "b"], [3.0, 1.0]))
    widths = (np.abs(pixels - BLUE).max(-1) <= 3).sum(1)
    long, short = widths.max(), np.median(widths[(widths > 0) & (widths < widths.max() / 2)])
    assert long / short == pytest.approx(3.0, rel=0.03)  # anti-aliased edges: a pixel or two


def test_same_input_same_bytes():
    assert token_bars(["a"], [1.0]) == token_bars(["a"], [1.0])


def test_dollar_signs_are_no_formula():
    bars = token_bars(["$\\frac{", "b$"], [1.0, 2.0])
    wall = pairs_wall(_films(1), _films(1), captions=["$\\frac{$"])
    assert bars.startswith(b"\x89PNG")
    assert wall.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pairs_wall(_films(2), _films(2), captions=["x"]), "1 captions"),
        (lambda: pairs_wall(_films(0), _films(0), captions=[]), "no image"),
        (lambda: magnitude_curves({"a": np.zeros(5)}), r"shape \(5,\)"),
        (lambda: magnitude_curves({}), "0 groups"),
        (lambda: token_bars(["a"], [1.0, 2.0]), "1 names and 2 values"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()

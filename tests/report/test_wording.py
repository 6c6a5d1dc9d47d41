"""Numbers and names in words."""

import math

import pytest

from memjax.core.registry import title_of
from memjax.report.wording import (
    correlation_title,
    decimal,
    interval,
    is_share,
    metric_title,
    p_value_text,
    wording,
)


@pytest.mark.parametrize(
    ("value", "text"), [(-0.126, "−0.13"), (-0.001, "0.00"), (1234.5, "1,234.50"), (0, "0.00")]
)
def test_minus_signs_are_true_and_zero_has_none(value, text):
    assert decimal(value) == text


def test_intervals_with_a_negative_end_say_to():
    assert interval({"x_low": -0.1, "x_high": 0.2}, "x", "plain") == "−0.10 to 0.20"
    assert interval({"x_low": 0.1, "x_high": 0.2}, "x", "plain") == "0.10–0.20"
    assert interval({"x_low": 0.1, "x_high": math.nan}, "x") == ""
    assert interval({}, "x") == ""


def test_correlation_titles():
    rung = {"title": "SSIM", "spearman": 0.5, "spearman_low": 0.4, "spearman_high": 0.6}
    assert correlation_title(rung) == "SSIM: Spearman 0.50 (range 0.40–0.60)"
    assert correlation_title({**rung, "num_pictures": 1200}).endswith(", 1,200 images")
    assert correlation_title({"name": "ncc"}) == "ncc: correlation not measured"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("initial_noise", "initial noise"),
        (
            "embedding_noise:scale=0.3 + guidance_delay",
            "embedding noise (scale 0.3) + guidance delay",
        ),
        (
            "guidance_delay:until=0.4:early=-2:dynamic=true",
            "guidance delay (until 0.4, early −2, dynamic)",
        ),
        ("guidance_delay:dynamic=false", "guidance delay (not dynamic)"),
        (
            "embedding_optimization:detector=(noise_magnitude:rms=true):steps=1/4",
            "embedding optimization (detector noise magnitude (rms), steps 1, 4)",
        ),
    ],
)
def test_mitigations_are_told_in_words(text, title):
    assert title_of(text) == title


def test_p_values():
    assert p_value_text(0.0001) == "Wilcoxon p < 0.001"
    assert p_value_text(0.0421) == "Wilcoxon p = 0.042"
    assert p_value_text(None) == p_value_text(math.nan) == "not tested"


def test_metrics_have_names_and_kinds():
    assert metric_title("copy_rate_mix") == "Copies, prompts drawn as in training"
    assert metric_title("spearman_ms_ssim") == "Spearman, pull and likeness: ms ssim"
    assert metric_title("odd_thing") == "Odd thing"
    assert metric_title("odd_thing", {"odd_thing": "Named"}) == "Named"
    shares = [is_share(key) for key in ("copy_rate_third_mix", "memorized_share_ssim", "auc_all")]
    assert shares == [True, True, False]


def test_data_without_a_name_are_images():
    assert wording({})[:2] == ("images", "images")
    assert wording({"data": {"unit": "films"}}).stranger == "a different patient"
    assert wording({"data": {"name": "digits"}}).label == "label"

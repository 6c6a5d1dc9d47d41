"""The page of a model without a null condition, and of one without conditions, in words."""

import re

import pytest

from memjax.report.charts.curves import token_bars
from memjax.report.pages.audit_text import verdict
from memjax.report.pages.audit_without_null import own_captions
from memjax.report.pages.base import missing_fields, render_html

SENTENCE = "Magnitudes were left out; to have them, give --null=random_labels."


def detector(name, key, value):
    return {"name": name, "steps": "all", key: value, f"{key}_low": 0.5, f"{key}_high": 0.9}


def basis(key):
    return {
        "left_out": {"detectors": ["noise_magnitude"], "sentence": SENTENCE},
        "notes": SENTENCE,
        "data": {"num_images": 120, "num_repeated": 3, "repeats": 20},
        "training": {"steps": 20, "seconds": 1.0, "images_per_second": 3.0},
        "detection": {"signal": {"name": "update_norm", "title": "update norm"}},
        "detectors": {
            "rows": [detector("update_norm", key, 0.86), detector("luck:x=1", key, 0.42)],
            "left_out": [
                {"name": "noise_magnitude", "needs": ["eps_uncond"]},
                {"name": "attention_entropy", "needs": ["maps"]},
            ],
        },
        "versions": {"jax": "1"},
        "config": {"a": 1},
        "seed": 0,
    }


@pytest.fixture
def prompts():
    """Made-up results of a model without a null condition; no mitigation was tried."""
    rates = {"copy_rate_memorized": 0.5, "copy_rate_other": 0.1, "copy_rate_background": 0.04}
    return {**basis("auc"), "similarity": rates, "mitigation": {"arms": []}}


@pytest.fixture
def samples():
    """Made-up results of a model without conditions."""
    found = {
        "num": 48,
        "num_copied": 8,
        "num_copied_of_repeated": 7,
        "num_returned": 3,
        "num_returned_repeated": 2,
        "num_repeated": 3,
    }
    image = {"row": 2, "image": "2.png", "patient": "7", "copies": 20, "samples": 5}
    image |= {"prompts": 5, "distance": 0.25, "prompt": "seed-0001", "generation": 0}
    back = {"num": 3, "num_patients": 2, "images": [image]}
    rates = {"copy_rate_sample": 8 / 48, "copy_rate_background": 0.04}
    basic = {**basis("auc_copied"), "similarity": rates, "samples": found}
    return {**basic, "returned": back, "data": {"unit": "films"}}


def words(page):
    return " ".join(re.sub(r"<[^>]*>", " ", page[page.index("</style>") :]).split())


@pytest.mark.parametrize("kind", ["prompts", "samples"])
def test_what_was_left_out_is_said_once_and_nothing_is_called_missing(kind, request):
    results = request.getfixturevalue(kind)
    text = words(render_html(results, {}))
    assert text.count("Magnitudes were left out") == 1
    assert "not measured" not in text.lower()
    assert "noise_magnitude was left out" not in text
    assert "attention_entropy was left out: it needs maps" in text
    assert missing_fields(results) == []
    assert "not measured" not in " ".join(verdict(results).texts)
    assert all(tile.figure != "not measured" for tile in verdict(results).tiles)


def test_all_detectors_that_were_measured_stand_in_the_summary(prompts, samples):
    for results, whom in ((prompts, "a memorized prompt above another"), (samples, "a copy above")):
        said = " ".join(verdict(results).texts)
        assert whom in said
        assert "the update norm in 86 (range 50–90) and the luck (x 1) in 42" in said


def test_a_signal_with_nothing_to_find_is_said_to_have_none(prompts, samples):
    for results, key in ((prompts, "auc"), (samples, "auc_copied")):
        for row in results["detectors"]["rows"]:
            row[key] = None
        assert (
            "nothing says how well a warning signal such as the update norm would do"
            in " ".join(verdict(results).texts)
        )


def test_samples_are_counted_by_training_image(samples):
    found = verdict(samples)
    assert found.level == "found_only"
    assert "8 of 48 images are copies" in found.headline
    said = " ".join(found.texts)
    assert "8 copy a training image" in said
    assert "3 different training images came back; 2 of them were repeated in training" in said
    assert "7 of the 8 copies show one of these" in said
    text = words(render_html(samples, {}))
    assert "Memorized prompt" not in text
    assert "2.png 7 20 5 0.25" in text  # patient, times in training, images that copy it, distance
    assert "take the images that returned.csv names" in said
    samples["samples"] |= {"num_copied": 0, "num_returned": 0}
    samples["returned"] = {"num": 0, "num_patients": 0, "images": []}
    samples["similarity"]["copy_rate_sample"] = 0.0
    assert verdict(samples).level == "clear"
    assert verdict(samples).answers[1][1] == "No training image came back in all that was asked."
    assert verdict(samples).answers[2][1].startswith("Nothing came back that had to be repaired")


def test_figures_of_another_signal_do_not_speak_of_the_pull_of_a_prompt(prompts, samples):
    figures = dict.fromkeys(("scatter/Any", "magnitude", "wall", "roc"), token_bars(["a"], [1.0]))
    assert set(own_captions(prompts, figures)) == {"scatter/Any", "magnitude"}
    assert set(own_captions(samples, figures)) == set(figures)
    page = render_html(samples, figures, captions=own_captions(samples, figures))
    assert "pull" not in words(page)
    assert own_captions({"detection": {"default": "first_k"}}, figures) == {}

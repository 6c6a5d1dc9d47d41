"""Levels of ordinary prompts, and methods that are refused before any work."""

import dataclasses

import numpy as np
import pytest

from memjax.detectors import DETECTORS, Detection, NoiseMagnitude, steps_needed
from memjax.detectors.sharpness import Sharpness
from memjax.mitigations import MITIGATIONS, parse_chain
from memjax.runs.options import AuditOptions
from memjax.studies.problems import check_methods, ordinary_levels

VALUES = np.arange(24.0).reshape(4, 2, 3)  # prompt, generation, step
RMS = NoiseMagnitude(rms=True)


def levels(detectors, values=VALUES, dim=16):
    found = Detection(dict.fromkeys(detectors, values), None, 0, dim)
    return ordinary_levels(found, detectors, np.array([1, 3]))


def test_a_level_is_the_mean_over_ordinary_prompts_in_the_wanted_unit():
    mean = VALUES[[1, 3]][:, :, [0, 2]].mean()
    raw, scaled = levels({"m": NoiseMagnitude(steps=2)}), levels({"m": RMS})
    assert raw(NoiseMagnitude(), (0, 2)) == pytest.approx(mean)
    assert raw(RMS, (0, 2)) == pytest.approx(mean / 4)
    assert scaled(RMS, (0, 2)) == pytest.approx(mean)
    assert scaled(NoiseMagnitude(), (0, 2)) == pytest.approx(4 * mean)


def test_another_statistic_has_no_level_nor_has_one_that_was_not_evaluated():
    measured = levels({"s": Sharpness(form="eps")})
    assert measured(Sharpness(form="score"), (0,)) is None
    assert measured(RMS, (0,)) is None
    unknown = VALUES.copy()
    unknown[:, :, 1:] = np.nan
    outside = levels({"s": Sharpness()}, unknown)
    assert outside(Sharpness(), (0,)) == pytest.approx(VALUES[[1, 3], :, 0].mean())
    assert outside(Sharpness(), (0, 2)) is None


def test_a_magnitudes_target_is_not_anothers():
    options = AuditOptions(target_rms=0.02)
    usual = options.chain("embedding_first_step").mitigations[0]
    assert usual.target == 0.02
    other = options.chain("embedding_first_step:detector=(sharpness)").mitigations[0]
    assert other.target is None
    own = options.chain("embedding_first_step:detector=(sharpness):target=0.5").mitigations[0]
    assert own.target == 0.5


@pytest.mark.parametrize(
    ("detectors", "arms", "sentence"),
    [
        (["noise_magnitude:steps=frist"], [], "noise_magnitude:steps=frist: steps is 'frist'"),
        (["update_norm:steps=9"], [], r"expected a non-empty one within 0\.\.8"),
        ([], ["embedding_optimization:steps=2/8"], "step 8 of 8 steps"),
        ([], ["random_word"], "this model reads labels"),
    ],
)
def test_methods_that_cannot_be_served_are_refused_first(detectors, arms, sentence):
    chains = [parse_chain(MITIGATIONS, arm) for arm in arms]
    with pytest.raises(ValueError, match=sentence):
        check_methods(DETECTORS.parse_all(detectors), chains, 8, text=False, generations=2)


def test_one_image_a_prompt_is_too_few_to_compare():
    detectors = DETECTORS.parse_all(["seed_similarity"])
    check_methods(detectors, [], 8, text=False, generations=2)
    with pytest.raises(ValueError, match=r"seed_similarity compares .* give --generations=2"):
        check_methods(detectors, [], 8, text=False, generations=1)


def test_a_window_relative_to_the_run_needs_all_of_it():
    half = dataclasses.replace(RMS, steps="half")
    assert steps_needed({"m": half}, 50) == 50
    assert steps_needed({"m": dataclasses.replace(RMS, steps=7)}, 50) == 7


def test_an_exponent_is_no_chain_and_a_field_stands_once():
    assert parse_chain(MITIGATIONS, "embedding_noise:scale=1e+1").mitigations[0].scale == 10
    with pytest.raises(ValueError, match="scale is given twice"):
        parse_chain(MITIGATIONS, "embedding_noise:scale=1:scale=2")
    with pytest.raises(ValueError, match="scale is inf, expected a number from 0"):
        parse_chain(MITIGATIONS, "embedding_noise:scale=inf")

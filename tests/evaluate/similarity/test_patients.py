"""Dar et al.'s percentages on counted examples."""

import json

import numpy as np
import pytest

from memjax.evaluate.similarity.patients import (
    copies_above,
    dar_summary,
    memorized_patients,
    positive_threshold,
    validation_threshold,
)

PATIENTS = ["a", "a", "a", "b", "b", "c", "d", "d", "d", "d"]


def test_shares_are_counted():
    """Rows 0, 1 (patient a) and 5 (patient c) have copies; row 7 is near but no copy."""
    is_copy = [True, True, True, False, True, False]
    found = memorized_patients(is_copy, [0, 0, 1, 7, 5, 9], PATIENTS)
    assert found.pictures.value == pytest.approx(3 / 10)
    assert found.patients.value == pytest.approx(2 / 4)
    assert found.copies.value == pytest.approx(4 / 6)
    assert (found.num_train, found.num_patients, found.num_generated) == (10, 4, 6)


def _width(interval):
    return interval.high - interval.low


def test_intervals_resample_patients_and_conditions():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    rows = np.flatnonzero(patients < 16)  # 40 % of the patients, with all their images
    conditions = np.repeat(np.arange(10), 30)
    is_copy = conditions < 4
    index = np.where(is_copy, np.resize(rows, 300), rng.integers(0, 200, 300))
    found = memorized_patients(is_copy, index, patients, conditions=conditions)
    apart = memorized_patients(is_copy, index, np.arange(200))
    assert found.pictures.value == apart.pictures.value == pytest.approx(0.4)
    assert found.pictures.high - found.pictures.low > 1.7 * (
        apart.pictures.high - apart.pictures.low
    )
    assert found.copies.high - found.copies.low > 3 * (apart.copies.high - apart.copies.low)
    assert found.patients.low < 0.4 < found.patients.high


def test_no_copies_give_an_exact_upper_end():
    found = memorized_patients([False] * 5, [-1] * 5, PATIENTS)
    assert found.pictures.value == found.patients.value == found.copies.value == 0.0
    assert found.patients.high == pytest.approx(1 - 0.025 ** (1 / 4))


def test_thresholds_are_the_two_percentiles():
    similarity = np.random.default_rng(1).permutation(np.arange(101.0))
    assert validation_threshold(similarity) == pytest.approx(95.0)
    assert positive_threshold(similarity) == pytest.approx(5.0)
    assert copies_above(similarity, 95.0).sum() == 5
    one_each = np.where(similarity > 50, 200.0, 10.0)
    assert copies_above(similarity, one_each).sum() == 40


def test_summary_is_a_row_of_the_results():
    row = dar_summary("copy_encoder", "Copy encoder", memorized_patients([True], [5], PATIENTS))
    assert json.loads(json.dumps(row))["memorized_share"] == pytest.approx(0.1)
    for key in ("memorized_share", "patients_share", "copies_share"):
        assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
    assert (row["num_train"], row["num_generated"]) == (10, 1)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="image 1 copies training row 10"):
        memorized_patients([False, True], [-1, 10], PATIENTS)
    with pytest.raises(ValueError, match=r"\(2,\) of is_copy and \(3,\)"):
        memorized_patients([True, True], [1, 2, 3], PATIENTS)
    with pytest.raises(ValueError, match="0 similarities"):
        validation_threshold([])
    with pytest.raises(ValueError, match="all finite"):
        copies_above([1.0, np.nan], 0.5)

"""Memorized, spurious, generalized: planted kinds, limits from real images, refusals."""

import numpy as np
import pytest

from memjax.evaluate.similarity.three_way import (
    GENERALIZED,
    MEMORIZED,
    SPURIOUS,
    Limits,
    fit_limits,
    three_way,
    three_way_summary,
)


def rows(seed, n, d=20):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_planted_kinds_are_told_apart():
    training, new = rows(0, 300), rows(1, 40)
    limits = fit_limits(training, rows(2, 200), 60)
    copies = training[:10] + 0.05 * rows(3, 10)
    attractor = np.repeat(rows(4, 1), 10, axis=0) + 0.05 * rows(5, 10)
    found = three_way(np.concatenate([copies, attractor, new]), training, limits)
    assert (found.kind[:10] == MEMORIZED).all()
    assert (found.kind[10:20] == SPURIOUS).all()
    assert (found.kind[20:] == GENERALIZED).mean() > 0.9
    figures = three_way_summary(found, np.arange(60) // 2)
    assert figures["memorized"] == pytest.approx(np.mean(found.kind == MEMORIZED))
    assert sum(figures[k] for k in (MEMORIZED, SPURIOUS, GENERALIZED)) == pytest.approx(1)
    assert figures["spurious_low"] < figures["spurious"] < figures["spurious_high"]


def test_limits_are_what_a_share_of_real_images_reaches():
    training, held = rows(0, 400), rows(1, 400)
    limits = fit_limits(training, held, 400, percentile=5)
    d = np.sqrt(((held[:, None].astype(np.float64) - training[None]) ** 2).sum(-1)).min(1)
    assert limits.memorized == pytest.approx(np.percentile(d, 5), rel=1e-5)
    own = np.sqrt(((training[:, None].astype(np.float64) - training[None]) ** 2).sum(-1))
    np.fill_diagonal(own, np.inf)
    assert limits.spurious == pytest.approx(np.percentile(own.min(1), 5), rel=1e-5)
    fresh = three_way(rows(2, 400), training, limits)  # the same law: wrong as often as asked
    assert 0.02 < np.mean(fresh.kind == MEMORIZED) < 0.09
    assert 0.02 < np.mean(fresh.to_others <= limits.spurious) < 0.09


def test_fewer_generations_lie_further_apart_and_patients_stay_together():
    training, held = rows(0, 400), rows(1, 100)
    assert fit_limits(training, held, 40).spurious > fit_limits(training, held, 400).spurious
    twins = np.concatenate([training, training + 0.01 * rows(2, 400)])
    patients = np.tile(np.arange(400), 2)
    of_patients = fit_limits(
        twins, training[:100], 800, patients=patients, held_patients=np.arange(100)
    )
    assert fit_limits(twins, training[:100], 800).spurious < 0.1 < 1 < of_patients.spurious
    assert of_patients.memorized > 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="percentile is 0, expected a number between 0 and 100"):
        fit_limits(rows(0, 5), rows(1, 5), 5, percentile=0)
    with pytest.raises(ValueError, match="5 training, 1 held-out and 5 generated"):
        fit_limits(rows(0, 5), rows(1, 1), 5)
    with pytest.raises(ValueError, match="1 pictures have no others"):
        three_way(rows(0, 1), rows(1, 5), Limits(1, 1))
    with pytest.raises(ValueError, match="no picture of another patient"):
        fit_limits(rows(0, 5), rows(1, 5), 5, patients=[1] * 5, held_patients=[2] * 5)

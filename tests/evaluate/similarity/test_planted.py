"""Copies made on purpose: what they are, and which rungs tell them from other images."""

import numpy as np
import pytest
from scipy import ndimage

from memjax.evaluate.similarity.measures import Nearest, Rung
from memjax.evaluate.similarity.planted import (
    AUGMENTED,
    BLURRED,
    KINDS,
    SHIFTED,
    Planted,
    measure_planted,
    plant_copies,
    planted_auc,
)
from memjax.evaluate.similarity.rungs import pixel_rungs
from memjax.evaluate.statistics.roc import auc


def pictures(n, seed=0, side=32):
    return np.random.default_rng(seed).uniform(-1, 1, (n, side, side, 1)).astype(np.float32)


def test_kinds_are_what_they_are_called():
    x = pictures(70)
    made = plant_copies(x, seed=3)
    assert tuple(made) == KINDS
    want = ndimage.gaussian_filter(x.astype(np.float64), (0, 1, 1, 0), truncate=8)
    inside = np.s_[:, 8:-8, 8:-8]
    np.testing.assert_allclose(made[BLURRED][inside], want[inside], atol=2e-6)
    steps = [(i, j) for i in (-2, 0, 2) for j in (-2, 0, 2) if (i, j) != (0, 0)]
    moved = np.stack([np.roll(x, step, axis=(1, 2)) for step in steps])
    same = np.isclose(made[SHIFTED][inside], moved[(slice(None), *inside)], atol=1e-5)
    hits = same.all(axis=(2, 3, 4)).sum(axis=0)
    np.testing.assert_array_equal(hits, 1)  # each image went in exactly one of eight directions
    assert (np.abs(made[AUGMENTED] - x).mean(axis=(1, 2, 3)) > 0.01).all()
    again = plant_copies(x, seed=3)
    np.testing.assert_array_equal(again[AUGMENTED], made[AUGMENTED])
    assert np.abs(plant_copies(x, seed=4)[SHIFTED] - made[SHIFTED]).max() > 0.1


def test_only_images_of_the_class_are_searched():
    seen = []

    def build(train, owner):
        seen.append((len(train), None if owner is None else list(owner)))
        return lambda q, query_owner: Nearest(np.ones(len(q)), np.zeros(len(q), int))

    rung = Rung("by_hand", "By hand", "L0", build)
    classes, held = ["a", "a", "b", "b", "b", "c"], ["a", "b", "b", "c", "d"]
    found = measure_planted(
        rung, pictures(6), pictures(5, 1), strata=classes, held_strata=held, patients=range(6)
    )
    assert seen == [(2, [0, 1]), (3, [2, 3, 4])]
    np.testing.assert_array_equal(found.sources, np.arange(5))  # class c has no second image
    assert len(found.others) == 3
    assert all(np.isfinite(values).all() for values in found.copies.values())


def test_areas_are_those_of_the_scores():
    rng = np.random.default_rng(0)
    copies = {kind: rng.normal(size=30) + i for i, kind in enumerate(KINDS)}
    planted = Planted(copies, np.arange(30), rng.normal(size=50))
    found = planted_auc(planted, n=200)
    for kind in KINDS:
        scores = np.concatenate([copies[kind], planted.others])
        assert found[kind].value == pytest.approx(auc(scores, np.arange(80) < 30))
        assert found[kind].low < found[kind].value < found[kind].high
    pooled = np.mean([found[kind].value for kind in KINDS])  # as many copies of each kind
    assert found["pooled"].value == pytest.approx(pooled)


def test_pixels_find_blurred_copies_and_need_shifts_for_shifted_ones():
    """Smooth images that differ: blur is harmless, two pixels are not."""
    x = plant_copies(pictures(60), seed=0)[BLURRED]
    train, held = x[:40], x[40:]
    rungs = {rung.name: rung for rung in pixel_rungs((32, 32, 1))}
    areas = {
        name: planted_auc(measure_planted(rungs[name], train, held), n=50)
        for name in ("pearson", "ncc")
    }
    assert areas["pearson"][BLURRED].value == areas["ncc"][BLURRED].value == 1.0
    assert areas["ncc"][SHIFTED].value == 1.0
    assert areas["pearson"][SHIFTED].value < areas["ncc"][SHIFTED].value - 0.05


def test_classes_on_one_side_only_are_refused():
    rung = pixel_rungs((32, 32, 1))[0]
    with pytest.raises(ValueError, match="pass both or neither"):
        measure_planted(rung, pictures(4), pictures(2), strata=["a"] * 4)
    with pytest.raises(ValueError, match="coarser classes"):
        measure_planted(rung, pictures(2), pictures(2), strata=["a", "b"], held_strata=["a", "b"])

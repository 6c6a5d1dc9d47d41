"""Nearest neighbors and copy rules against float64 NumPy."""

import numpy as np
import pytest

from memjax.evaluate.similarity import knn as neighbors
from memjax.evaluate.similarity.copy_rules import (
    adaptive_l2,
    copy_report,
    knn,
    nearest_ratio,
    pixel_rms,
    unique_rows,
)

SHAPE = (8, 8, 1)


def _images(n, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *SHAPE)).astype(np.float32)


def _all_distances(q, db):
    """Every distance, directly, in float64."""
    gap = q.reshape(len(q), 1, -1).astype(np.float64) - db.reshape(1, len(db), -1)
    return np.sqrt((gap**2).sum(-1))


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_knn_equals_brute_force(block):
    q, db = _images(23, 0), _images(150, 1)
    ref = _all_distances(q, db)
    order = np.argsort(ref, axis=1)[:, :12]
    distance, index = knn(q, db, 12, block=block)
    np.testing.assert_array_equal(index, order)
    # 1e-5 relative: the distances are re-scored in float64 and stored as float32
    np.testing.assert_allclose(distance, np.take_along_axis(ref, order, 1), rtol=1e-6)


def test_near_duplicates_keep_their_digits():
    """The expanded form alone is wrong by orders of magnitude here: |x|² ~ 4e4, d ~ 1e-3."""
    db = 25 * _images(60, 2)
    q = db[:10] + np.float32(1e-4)
    distance, index = knn(q, db, 2)
    np.testing.assert_array_equal(index[:, 0], np.arange(10))
    np.testing.assert_allclose(distance[:, 0], _all_distances(q, db)[range(10), range(10)], 1e-6)
    assert knn(db, db, 1)[0].max() == 0.0


def test_slabs_and_query_chunks_change_nothing(monkeypatch):
    q, db = _images(30, 3), _images(101, 4)
    whole = knn(q, db, 5)
    monkeypatch.setattr(neighbors, "_SLAB_BYTES", 4 * 64 * 16 * 3)
    monkeypatch.setattr(neighbors, "_QUERY_CHUNK", 8)
    monkeypatch.setattr(neighbors, "_RESCORE_ELEMENTS", 64 * 20)
    parts = knn(q, db, 5, block=16)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


def test_memory_mapped_database(tmp_path):
    db = _images(40, 5)
    stored = np.memmap(tmp_path / "db.bin", np.float32, "w+", shape=db.shape)
    stored[:] = db
    np.testing.assert_array_equal(knn(db[:4], stored, 3)[1], knn(db[:4], db, 3)[1])


def test_excluded_groups_and_self():
    db = _images(20, 6)
    patients = np.repeat(np.arange(5), 4)
    distance, index = knn(db, db, 20, exclude_groups=(patients, patients))
    assert not (patients[index] == patients[:, None])[np.isfinite(distance)].any()
    assert (np.isfinite(distance).sum(1) == 16).all()
    assert (index[~np.isfinite(distance)] == -1).all()
    alone = knn(db, db, 1, exclude_self=True)[1][:, 0]
    assert (alone != np.arange(20)).all()


def test_no_group_is_never_excluded():
    db = _images(6, 7)
    names = ["", "a", "", "b", "", ""]
    _, index = knn(db, db, 1, exclude_groups=(names, names))
    np.testing.assert_array_equal(index[[0, 2, 4, 5], 0], [0, 2, 4, 5])
    assert index[1, 0] != 1
    assert index[3, 0] != 3


def test_unique_rows_takes_the_first_of_each_group():
    np.testing.assert_array_equal(unique_rows([7, 3, 7, 1, 3]), [0, 1, 3])
    np.testing.assert_array_equal(unique_rows(["b", "a", "b"]), [0, 1])


def test_ratios_against_numpy():
    q, db = _images(9, 8), _images(80, 9)
    near = np.sort(_all_distances(q, db), axis=1)
    want = near[:, 0] / (0.5 * near[:, :50].mean(1))
    np.testing.assert_allclose(adaptive_l2(q, db), want, rtol=1e-5)
    want = near[:, 0] / (0.3 * near[:, :10].mean(1))
    np.testing.assert_allclose(adaptive_l2(q, db, alpha=0.3, n=10), want, rtol=1e-5)
    np.testing.assert_allclose(nearest_ratio(q, db), near[:, 0] / near[:, 1], rtol=1e-5)


def test_copy_report_finds_planted_copies_among_duplicates():
    """Copies of a duplicated image pass for new ones unless the database is de-duplicated."""
    singles = _images(60, 10)
    db = np.concatenate([np.repeat(singles[:2], 5, axis=0), singles[2:]])
    groups = np.concatenate([np.repeat([100, 101], 5), np.arange(58)])
    noise = 0.05 * _images(2, 11)
    q = np.concatenate([singles[:2] + noise, _images(4, 12)])
    report = copy_report(q, db, groups=groups)
    np.testing.assert_array_equal(report.is_copy_adaptive, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(report.is_copy_third, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(report.index[:2], [0, 5])
    assert not copy_report(q, db).is_copy_third.any()
    assert np.isnan(report.background_threshold)
    assert not report.is_copy_background.any()


def test_second_nearest_is_another_patients():
    """A follow-up film next to the copied one would lift d1/d2 above 1/3."""
    db = _images(60, 13)
    db[1] = db[0] + 0.05 * _images(1, 14)[0]
    patients = [f"p{i // 2}" for i in range(60)]
    q = db[:1] + 0.03 * _images(1, 15)
    assert not copy_report(q, db).is_copy_third[0]
    report = copy_report(q, db, patients=patients)
    far = np.sort(_all_distances(q, db)[0, 2:])[0]
    assert report.is_copy_third[0]
    np.testing.assert_allclose(report.ratio_third, report.distance / far, rtol=1e-6)


def test_background_threshold_and_same_patient_exclusion():
    db = _images(70, 16)
    held = np.concatenate([db[:1] + 0.01, _images(40, 17)])
    patients = [f"p{i}" for i in range(70)]
    held_patients = ["p0", *(f"h{i}" for i in range(40))]
    background = copy_report(held, db, patients=patients, query_patients=held_patients)
    assert not background.is_copy_adaptive.any()
    assert background.index[0] != 0
    report = copy_report(db[:3] + 0.02, db, background=background, percentile=10)
    want = np.percentile(background.ratio_adaptive, 10)
    assert report.background_threshold == pytest.approx(want)
    assert report.is_copy_background.all()
    again = copy_report(held[1:], db, background=background, percentile=10)
    # the 10th percentile of 41 values has at most 5 of them at or below it
    assert 3 <= again.is_copy_background.sum() <= 5


def test_pixel_rms_of_black_and_white_is_one():
    black, white = np.full((1, *SHAPE), -1, np.float32), np.ones((1, *SHAPE), np.float32)
    distance, _ = knn(black, white, 1)
    np.testing.assert_allclose(pixel_rms(distance, 64), 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, db: knn((q * 255).astype(np.uint8), db, 1), "dtype uint8"),
        (lambda q, db: knn(q[:, :4], db, 1), "32 values a row"),
        (lambda q, db: knn(q, db, 99), "99 neighbors"),
        (lambda q, db: knn(q, db, 0), "0 neighbors"),
        (lambda q, db: knn(q, db, 1, exclude_self=True), "exclude_self"),
        (lambda q, db: knn(q, db, 1, exclude_groups=([1], [2])), "query groups"),
        (lambda q, db: knn(q * np.nan, db, 1), "not finite"),
        (lambda q, db: knn(q, db * np.inf, 1), "not finite"),
        (lambda q, db: copy_report(q, db), "neighborhood of n=50"),
        (lambda q, db: copy_report(q, db, n=5, query_patients=["a"] * 3), "without patients"),
        (lambda q, db: copy_report(q, db, n=5, groups=[1, 2]), "2 entries"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call(_images(3, 18), _images(9, 19))

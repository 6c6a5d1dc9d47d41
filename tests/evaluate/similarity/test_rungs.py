"""Every rung's nearest image against a float64 search written out, and its closed forms."""

import numpy as np
import pytest

from memjax.evaluate.features.base import NamedFeatures
from memjax.evaluate.similarity import rungs
from memjax.evaluate.similarity.measures import Nearest, same_group
from memjax.evaluate.similarity.planted import resample
from memjax.evaluate.similarity.rungs import feature_rung, overlap, pixel_rungs

SHAPE = (12, 12, 1)
RUNGS = {rung.name: rung for rung in pixel_rungs((24, 24, 1))}
SELF = {"pixel_l2": 0, "adaptive_l2": 0, "nearest_third": 0}


def pictures(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def near(train, rows, seed=1, amount=0.4):
    return np.clip(train[rows] + amount * pictures(len(rows), seed, train.shape[1:]), -1, 1)


def search(name, queries, train, **patients) -> Nearest:
    built = RUNGS[name].build(train, patients.get("owner"))
    return built(queries, patients.get("query_owner"))


def correlation(a, b):
    return float(np.corrcoef(a.ravel().astype(np.float64), b.ravel().astype(np.float64))[0, 1])


def best_shift(a, b, reach=2):
    """The largest correlation of ``a`` with ``b`` moved by whole pixels, where they overlap."""
    h, w = a.shape[:2]
    found = []
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            rows = np.arange(max(i, 0), h + min(i, 0))
            columns = np.arange(max(j, 0), w + min(j, 0))
            moved = b[rows[:, None] - i, columns[None] - j]
            found.append(correlation(a[rows[:, None], columns[None]], moved))
    return max(found)


def reference(name, q, train):
    """``[q, t]`` similarities in float64."""
    pair = {
        "pixel_l2": lambda a, b: -np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / 2,
        "pearson": correlation,
        "ncc": best_shift,
    }[name]
    return np.array([[pair(a, b) for b in train] for a in q])


@pytest.mark.parametrize("name", ["pixel_l2", "pearson", "ncc"])
def test_nearest_equals_the_float64_search(name):
    train = pictures(30)
    q = np.concatenate([near(train, [3, 17, 9]), pictures(3, seed=5)])
    want = reference(name, q, train)
    found = search(name, q, train)
    np.testing.assert_array_equal(found.index, want.argmax(1))
    np.testing.assert_allclose(found.similarity, want.max(1), rtol=1e-5)


@pytest.mark.parametrize("name", list(RUNGS))
def test_an_image_is_most_like_itself(name):
    train = pictures(8, shape=(24, 24, 1))
    found = search(name, train, train)
    np.testing.assert_array_equal(found.index, np.arange(8))
    # 1e-5: rounding of float32 variances in the structural rungs
    np.testing.assert_allclose(found.similarity, SELF.get(name, 1), atol=1e-5)


@pytest.mark.parametrize("name", list(RUNGS))
def test_the_order_of_training_images_does_not_matter(name):
    train = pictures(10, shape=(24, 24, 1))
    q = near(train, [2, 7, 4, 4])
    order = np.random.default_rng(3).permutation(10)
    plain, mixed = search(name, q, train), search(name, q, train[order])
    np.testing.assert_array_equal(order[mixed.index], plain.index)
    np.testing.assert_allclose(mixed.similarity, plain.similarity, rtol=1e-5)


@pytest.mark.parametrize("name", list(RUNGS))
def test_the_own_patient_is_never_found(name):
    train = pictures(6, shape=(24, 24, 1))
    owner = ["a", "a", "b", "c", "d", ""]
    found = search(name, train, train, owner=owner, query_owner=owner)
    assert set(found.index[:2]) <= {2, 3, 4, 5}
    assert (found.index[2:5] != np.arange(2, 5)).all()
    assert found.index[5] == 5  # no patient is named: nothing to leave out
    alone = search(name, train[:1], train[:2], owner=["a", "a"], query_owner=["a"])
    np.testing.assert_array_equal(alone.index, [-1])
    np.testing.assert_array_equal(alone.similarity, [-np.inf])


def test_a_shifted_copy_is_found_by_ncc_alone():
    wide = pictures(20, shape=(16, 16, 1))
    train, q = wide[:, 2:14, 2:14], wide[:, 4:16, 1:13]
    found = search("ncc", q, train)
    np.testing.assert_array_equal(found.index, np.arange(20))
    np.testing.assert_allclose(found.similarity, 1.0, rtol=1e-6)
    assert search("pearson", q, train).similarity.max() < 0.6
    # three pixels are one too many
    assert search("ncc", wide[:, 4:16, 0:12], wide[:, 1:13, 2:14]).similarity.max() < 0.8


def test_ncc_never_falls_below_pearson():
    train, q = pictures(15), pictures(9, seed=7)
    ncc, pearson = (search(name, q, train).similarity for name in ("ncc", "pearson"))
    assert (ncc >= pearson - 1e-7).all()


def test_pearson_forgives_contrast_and_distance_does_not():
    train = pictures(10)
    q = 0.2 * train - 0.5
    found = search("pearson", q, train)
    np.testing.assert_array_equal(found.index, np.arange(10))
    np.testing.assert_allclose(found.similarity, 1.0, rtol=1e-6)
    assert search("pixel_l2", q, train).similarity.max() < -0.2


def test_rotation_lowers_every_pixel_rung():
    train = pictures(8, shape=(24, 24, 1))
    n, turn = len(train), np.full(8, np.deg2rad(20.0))
    q = np.asarray(resample(train, turn, np.ones(n), np.zeros((n, 2))))
    for name in ("pearson", "ncc", "ssim", "ms_ssim"):
        assert search(name, q, train).similarity.max() < 0.8, name


def test_images_without_contrast_resemble_nothing():
    """Zero rows lie at distance 1 from unit rows, nearer than any real match below 0.5."""
    train = pictures(6)
    train[2] = 0.3
    q = pictures(3, seed=9)
    q[1] = -1.0
    found = search("pearson", q, train)
    want = reference_without_warning(q, train)
    np.testing.assert_allclose(found.similarity, want.max(1), atol=1e-6)
    assert found.similarity[1] == 0.0


def reference_without_warning(q, train):
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (q, train))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    return np.where(norm > 1e-5, a @ b.T / np.maximum(norm, 1e-5), 0.0)


def test_ratio_rungs_are_the_published_ones():
    train = pictures(70)
    q = near(train, [5], amount=0.05)
    gap = np.sort(np.linalg.norm((q - train).reshape(70, -1).astype(np.float64), axis=1))
    third, adaptive = search("nearest_third", q, train), search("adaptive_l2", q, train)
    np.testing.assert_allclose(third.similarity, -gap[0] / gap[1], rtol=1e-5)
    np.testing.assert_allclose(adaptive.similarity, -2 * gap[0] / gap[:50].mean(), rtol=1e-5)
    assert adaptive.note == ""
    assert "only 9 training images" in search("adaptive_l2", q, train[:9]).note


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_large_sets_are_searched_among_candidates_and_say_so(name, monkeypatch):
    train = pictures(130, shape=(24, 24, 1))
    q = near(train, [100, 3, 77])
    whole = search(name, q, train)
    monkeypatch.setattr(rungs, "_EXHAUSTIVE_VALUES", 24 * 24 * 100)
    some = search(name, q, train)
    np.testing.assert_array_equal(some.index, whole.index)
    np.testing.assert_allclose(some.similarity, whole.similarity, rtol=1e-5)
    assert "50 nearest" in some.note
    assert whole.note == ""
    owner = [f"p{i}" for i in range(130)]
    other = search(name, q, train, owner=owner, query_owner=["p100", "p3", "x"])
    assert (other.index[:2] != [100, 3]).all()
    assert other.index[2] == 77


def test_titles_say_what_does_not_fit():
    titles = {
        side: {r.name: r.title for r in pixel_rungs((side, side, 1))} for side in (8, 32, 176)
    }
    assert "ms_ssim" not in titles[8]
    assert "2 of 5 scales" in titles[32]["ms_ssim"]
    assert "of 5 scales" not in titles[176]["ms_ssim"]


def test_feature_rung_follows_the_features():
    def corner(images):
        return images[:, :2, :2, 0].reshape(len(images), -1)

    rung = feature_rung(NamedFeatures("corner weights", corner), name="corner")
    train = pictures(12)
    found = rung.build(train, None)(3 * train, None)
    np.testing.assert_array_equal(found.index, np.arange(12))
    np.testing.assert_allclose(found.similarity, 1.0, rtol=1e-6)
    assert (rung.name, rung.title, rung.published) == ("corner", "corner weights", None)


def test_same_group_ignores_the_nameless():
    found = same_group(["a", "", "b"], ["a", "", "a", "c"])
    np.testing.assert_array_equal(found, [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_overlap_refuses_to_leave_nothing():
    with pytest.raises(ValueError, match="leaves nothing of an image of 12×12"):
        overlap(pictures(1), 12, 0)


def test_overlaps_have_one_length_so_that_the_search_compiles_once():
    train = pictures(3)
    shapes = {overlap(train, i, j).shape for i in (-2, 0, 1) for j in (-1, 0, 2)}
    assert shapes == {(3, 144)}
    np.testing.assert_allclose(np.linalg.norm(overlap(train, 2, -1), axis=1), 1.0, rtol=1e-6)

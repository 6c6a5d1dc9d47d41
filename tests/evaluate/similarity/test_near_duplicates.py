import io

import numpy as np
import pytest
from PIL import Image

from memjax.data.dataset import load_images
from memjax.data.phantoms.folder import write_phantoms
from memjax.data.readers.chexpert import read_chexpert
from memjax.evaluate.similarity.near_duplicates import (
    components,
    find_duplicates,
    shifted_ncc,
    thumbnails,
)


def noise(num, edge=48, seed=0):
    """Smooth random images: nothing alike among them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (num, 8, 8), np.uint8)
    large = [Image.fromarray(x).resize((edge, edge), Image.Resampling.BICUBIC) for x in small]
    return np.stack([np.asarray(x) for x in large])[..., None]


def recompressed(image):
    out = io.BytesIO()
    Image.fromarray(image[..., 0]).save(out, "JPEG", quality=40)
    return np.asarray(Image.open(io.BytesIO(out.getvalue())))[..., None]


def test_thumbnails_have_zero_mean_and_unit_norm_whatever_the_contrast():
    images = noise(5)
    small = thumbnails(images, 16)
    np.testing.assert_allclose(small.sum(1), 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, rtol=1e-5)
    dark = thumbnails((images // 2 + 20).astype(np.uint8), 16)
    np.testing.assert_allclose(dark, small, atol=3e-3)
    flat = thumbnails(np.full((1, 32, 32, 1), 77, np.uint8), 16)
    assert not flat.any()


def test_cross_correlation_is_pearson_s_without_shift():
    a, b = (noise(4, 20, seed)[..., 0].astype(np.float32) for seed in (1, 2))
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(shifted_ncc(a, b, 0), expected, atol=1e-5)


@pytest.mark.parametrize("shift", [(0, 2), (-1, 2), (2, -2)])
def test_a_shift_is_found_again_on_the_part_both_share(shift):
    wide = noise(3, 40)[..., 0].astype(np.float32)
    dy, dx = shift
    a, b = wide[:, 5:35, 5:35], wide[:, 5 + dy : 35 + dy, 5 + dx : 35 + dx]
    np.testing.assert_allclose(shifted_ncc(a, b, 2), 1, atol=1e-6)
    assert (shifted_ncc(a, b, 0) < 0.99).all()


def test_components_of_a_graph():
    pairs = np.array([[4, 1], [1, 2], [5, 6]])
    assert components(7, pairs).tolist() == [0, 1, 1, 3, 1, 5, 5]
    assert components(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_exact_and_near_copies_form_one_group():
    base = noise(12)
    images = np.concatenate([base, base[3:4], base[3:4], recompressed(base[3])[None]])
    brighter = np.clip(base[7:8].astype(int) + 15, 0, 255).astype(np.uint8)
    found = find_duplicates(np.concatenate([images, brighter]))
    assert np.flatnonzero(found.group == found.group[3]).tolist() == [3, 12, 13, 14]
    assert np.flatnonzero(found.group == found.group[7]).tolist() == [7, 15]
    assert found.exact[3] == found.exact[12] != found.exact[14]
    assert sorted(map(tuple, found.pairs)) == [(3, 14), (7, 15)]
    assert (found.ncc > 0.95).all()
    assert len(np.unique(found.group)) == 12


def test_the_nearest_other_content_is_named():
    base = noise(6)
    found = find_duplicates(np.concatenate([base, base[:1], recompressed(base[2])[None]]))
    assert found.nearest_row[2] == 7
    assert found.nearest_row[7] == 2
    assert found.nearest[2] < 0.1 < found.nearest[1]
    assert found.nearest[0] == found.nearest[6] > 0.3
    small = thumbnails(base, 16)
    gaps = np.linalg.norm(small[1] - np.delete(small, 1, 0), axis=1)
    assert found.nearest[1] <= gaps.min() + 1e-5


def test_one_content_alone_has_no_neighbour():
    image = noise(1)
    found = find_duplicates(np.concatenate([image, image]))
    assert np.isinf(found.nearest).all()
    assert found.nearest_row.tolist() == [-1, -1]
    assert found.group.tolist() == [0, 0]


def test_different_patients_are_never_merged_on_phantoms(tmp_path):
    write_phantoms(
        tmp_path, seed=3, size=64, num_images=80, num_held_out=0, num_duplicated=3, copies=5
    )
    records = read_chexpert(tmp_path)[0]
    found = find_duplicates(load_images(records, size=64))
    patients = np.array([r.patient for r in records])
    for group in np.unique(found.group):
        assert len(set(patients[found.group == group])) == 1
    sizes = np.bincount(found.group)
    assert (sizes >= 5).sum() == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"threshold": 0}, "threshold is 0"), ({"candidate": 1.2}, "candidate is 1.2")],
)
def test_impossible_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        find_duplicates(noise(2), **options)
    with pytest.raises(ValueError, match="no images"):
        find_duplicates(noise(2)[:0])

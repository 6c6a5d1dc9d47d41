"""The copy encoder: its loss by hand, its file, and that it tells copies from like images."""

import json

import jax
import numpy as np
import pytest

from memjax.data.dataset import load_images
from memjax.data.images import to_unit
from memjax.data.labels.space import FINDINGS
from memjax.data.phantoms.folder import write_phantoms
from memjax.data.readers.chexpert import read_chexpert
from memjax.evaluate.features import copy_encoder
from memjax.evaluate.features.copy_encoder import (
    info_nce,
    load_copy_encoder,
    save_copy_encoder,
    train_copy_encoder,
)
from memjax.evaluate.similarity.ladder import copy_rung, measure_ladder
from memjax.evaluate.similarity.planted import plant_copies

SHAPE = (16, 16, 1)
TINY = {"steps": 3, "batch_size": 8, "width": 8, "features": 8}


def pictures(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny():
    return train_copy_encoder(pictures(20), pictures(24, 1), **TINY)


def test_loss_equals_float64_numpy():
    z = np.random.default_rng(0).normal(size=(12, 7))
    rho = np.corrcoef(z) / 0.1
    want = 0.0
    for i in range(12):
        others = np.delete(rho[i], i)
        want += (np.log(np.exp(others).sum()) - rho[i, (i + 6) % 12]) / 12
    # 1e-5: the embeddings and exponentials are float32
    np.testing.assert_allclose(info_nce(z.astype(np.float32)), want, rtol=1e-5)


def test_loss_is_least_where_views_agree_and_images_do_not():
    apart = np.eye(4, 16, dtype=np.float32)
    assert info_nce(np.concatenate([apart, apart])) < 0.01
    same = np.ones((8, 16), np.float32) * np.arange(16, dtype=np.float32)[None]
    np.testing.assert_allclose(info_nce(same), np.log(7), rtol=1e-5)


def test_the_seed_decides(tiny):
    again = train_copy_encoder(pictures(20), pictures(24, 1), **TINY)
    other = train_copy_encoder(pictures(20), pictures(24, 1), **TINY, seed=1)
    x = pictures(3, 5)
    np.testing.assert_array_equal(again(x), tiny(x))
    assert again.calibration == tiny.calibration
    assert np.abs(other(x) - tiny(x)).max() > 1e-3


def test_one_trace_while_data_seed_and_rate_change(tiny):
    before = copy_encoder._step._cache_size()
    train_copy_encoder(pictures(20, 7), pictures(24, 8), **TINY, seed=3, learning_rate=1e-3)
    assert copy_encoder._step._cache_size() == before


def test_a_file_brings_it_back(tiny, tmp_path):
    path = tmp_path / "folder" / "encoder.npz"
    save_copy_encoder(path, tiny)
    back = load_copy_encoder(path, SHAPE)
    x = pictures(5, 6)
    np.testing.assert_array_equal(back(x), tiny(x))
    assert back[2:] == tiny[2:]
    assert back.module == tiny.module
    assert [file.name for file in path.parent.iterdir()] == ["encoder.npz"]


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 broken"])
def test_a_broken_file_is_named(content, tmp_path):
    path = tmp_path / "encoder.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.npz is not a saved copy encoder; remove it"):
        load_copy_encoder(path, SHAPE)


def test_a_foreign_or_misshapen_file_is_named(tiny, tmp_path):
    path = tmp_path / "encoder.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="is not a saved copy encoder"):
        load_copy_encoder(path, SHAPE)
    save_copy_encoder(path, tiny)
    with pytest.raises(ValueError, match=r"another shape than \(16, 16, 3\)"):
        load_copy_encoder(path, (16, 16, 3))


def test_too_few_or_unlike_images_are_refused():
    with pytest.raises(ValueError, match="5 training and 24 held-out"):
        train_copy_encoder(pictures(5), pictures(24), **TINY)
    with pytest.raises(ValueError, match="of one size"):
        train_copy_encoder(pictures(20), pictures(24, shape=(32, 32, 1)), **TINY)


def phantoms(folder, split):
    records, _ = read_chexpert(folder, split)
    large = FINDINGS.index("Cardiomegaly")
    strata = np.array([str(record.findings[large]) for record in records])
    patients = np.array([record.patient for record in records])
    return to_unit(load_images(records, size=32)), strata, patients


@pytest.mark.slow
def test_it_tells_planted_copies_from_images_of_their_class(tmp_path):
    write_phantoms(tmp_path, size=64, num_images=200, num_held_out=80, num_duplicated=0)
    train, strata, patients = phantoms(tmp_path, "train")
    held, held_strata, held_patients = phantoms(tmp_path, "valid")
    encoder = train_copy_encoder(
        train, held, strata=strata, held_strata=held_strata,
        patients=patients, held_patients=held_patients, steps=300,
    )  # fmt: skip
    figures = encoder.calibration
    assert json.loads(json.dumps(figures)) == figures
    assert figures["auc_planted"] >= 0.95
    assert min(figures[kind] for kind in ("augmented", "blurred", "shifted")) >= 0.9
    assert figures["num_planted"] == 600
    assert 0.3 < encoder.threshold < figures["positives_5th_percentile"] + 0.3
    copies = plant_copies(train[:30], seed=9)["augmented"]
    found = measure_ladder([copy_rung(encoder)], copies, train, held_out=held)["copy_encoder"]
    assert found.is_copy.mean() >= 0.7
    assert (found.index == np.arange(30)).mean() >= 0.9
    assert found.background_is_copy.mean() <= 0.06


def test_module_is_jitted_once_for_all_sizes_of_sets(tiny):
    tiny(pictures(4))
    before = copy_encoder._embed._cache_size()
    tiny(pictures(9))
    tiny(pictures(300))
    assert copy_encoder._embed._cache_size() == before
    assert jax.tree.leaves(tiny.params)[0].dtype == np.float32

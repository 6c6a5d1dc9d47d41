"""A copy encoder that a sweep kept: read where it is this one's, made anew where it is not."""

import tokenize
from types import SimpleNamespace

import numpy as np
import pytest

from memjax.evaluate.features.copy_encoder import load_copy_encoder
from memjax.studies import ladder

SETTINGS = {"steps": 2, "batch_size": 8, "width": 8, "features": 8}


def films(count, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 16, 16, 1)).astype(np.float32)


def gallery(seed=0):
    names = ("strata", "held_strata", "patients", "held_patients")
    return SimpleNamespace(train=films(20, seed), held_out=films(24, 9), **dict.fromkeys(names))


def encoder(keep, *, of=0, seed=0, say=lambda text: None):
    return ladder._copy_encoder(gallery(of), seed, SETTINGS, keep, say)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "encoder.npz"
    encoder(path)
    return path.read_bytes()


def test_the_same_is_read(kept, tmp_path):
    (tmp_path / "e.npz").write_bytes(kept)
    said = []
    encoder(tmp_path / "e.npz", say=said.append)
    assert said == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-40],
        lambda data: bytes(len(data)),
        lambda data: b"",
        lambda data: data.replace(b"'shape': (", b"'shape': [", 1),
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    ],
)
def test_a_damaged_one_is_made_anew(kept, tmp_path, damage):
    file = tmp_path / "e.npz"
    file.write_bytes(damage(kept))
    said = []
    encoder(file, say=said.append)
    assert "is not a saved copy encoder: it is made anew" in said[0]
    assert said[1] == "training the copy encoder"
    load_copy_encoder(file, (16, 16, 1))


@pytest.mark.parametrize("other", [{"of": 1}, {"seed": 1}])
def test_one_of_other_images_or_another_seed_is_made_anew(kept, tmp_path, other):
    file = tmp_path / "e.npz"
    file.write_bytes(kept)
    said = []
    encoder(file, say=said.append, **other)
    assert "was trained on other images, or otherwise: it is made anew" in said[0]


def test_whatever_the_readers_raise_is_a_sentence(tmp_path, monkeypatch):
    def broken(*given, **more):
        raise tokenize.TokenError("EOF in multi-line statement", (2, 0))

    (tmp_path / "e.npz").write_bytes(b"x")
    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(ValueError, match="is not a saved copy encoder"):
        load_copy_encoder(tmp_path / "e.npz", (16, 16, 1))

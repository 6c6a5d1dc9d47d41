"""CLIP score against float64 NumPy, with its preprocessing against Pillow's."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from memjax.evaluate.features.clip_score import ClipScore, clip_preprocessing

MEAN, STD, SIZE = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 12
WORDS, WIDTH = 5, 6


class Tokens(NamedTuple):
    ids: np.ndarray


class Letters:
    """One id a letter; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += [text for text in texts if text]
        padded = [text[:WORDS].ljust(WORDS, "\0") for text in texts]
        return Tokens(np.asarray([[ord(c) % 50 for c in text] for text in padded]))


class Projected(NamedTuple):
    projected: np.ndarray


@dataclasses.dataclass(frozen=True)
class TextTower:
    def apply(self, variables, ids):
        return Projected(jnp.sum(variables["params"][ids], axis=1))


@dataclasses.dataclass(frozen=True)
class ImageTower:
    def apply(self, variables, images):
        return images.reshape(len(images), -1) @ variables["params"]


class Model(NamedTuple):
    name: str
    text: TextTower
    text_params: np.ndarray
    vision: ImageTower
    vision_params: np.ndarray
    tokenizer: Letters
    preprocessing: tuple = (SIZE, MEAN, STD, "bicubic")


def model():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, WIDTH)).astype(np.float32)
    kernel = rng.normal(size=(SIZE * SIZE * 3, WIDTH)).astype(np.float32)
    return Model("tiny-clip", TextTower(), table, ImageTower(), kernel, Letters())


def pictures(n, height=20, width=31, seed=0):
    """Smooth images with noise on them; some values overshoot when they are resized."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.repeat(rng.choice([-1.0, 1.0], (n, 8, 8, 3)), 4, 1), 4, 2)
    return np.clip(blocks[:, :height, :width] + 0.1 * rng.normal(size=(n, height, width, 3)), -1, 1)


def keys_cubic(x):
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resize_matrix(size, out):
    """Pillow's bicubic: Keys' kernel, widened when shrinking, each row summing to 1."""
    scale = size / out
    centers = (np.arange(out) + 0.5) * scale
    weights = keys_cubic((np.arange(size)[None] + 0.5 - centers[:, None]) / max(scale, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def prepared(images):
    """The preprocessing in float64."""
    x = images.astype(np.float64) * 0.5 + 0.5
    height, width = x.shape[1:3]
    short = min(height, width)
    tall, wide = SIZE * height // short, SIZE * width // short
    x = np.einsum("yh,nhwc,xw->nyxc", resize_matrix(height, tall), x, resize_matrix(width, wide))
    x = np.clip(x, 0, 1)
    top, left = round((tall - SIZE) / 2), round((wide - SIZE) / 2)
    x = x[:, top : top + SIZE, left : left + SIZE]
    return (x - np.asarray(MEAN)) / np.asarray(STD)


def expected(parts, images, captions):
    """The score in float64, step by step."""
    rows = prepared(images).reshape(len(images), -1) @ parts.vision_params.astype(np.float64)
    ids = Letters().encode(captions).ids
    words = parts.text_params.astype(np.float64)[ids].sum(axis=1)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(words, axis=1)
    return (rows * words).sum(axis=1) / norms


CAPTIONS = ["a dog", "a cat", "trees", "a dog", "boats"]


def test_score_is_the_cosine_in_double_precision():
    parts, images = model(), pictures(5)
    found = ClipScore(parts, batch_size=2)(images, CAPTIONS)
    assert found.dtype == np.float32
    # 432 float32 products a number: sqrt(432) * 6e-8 of the norm, ten times over.
    np.testing.assert_allclose(found, expected(parts, images, CAPTIONS), atol=1e-5)
    assert np.ptp(found) > 0.05


@pytest.mark.parametrize("size", [(20, 31), (31, 20), (12, 12), (9, 11)])
def test_preprocessing_is_pillows_on_floats(size):
    images = pictures(2, *size).astype(np.float32)
    ours = np.asarray(clip_preprocessing((SIZE, MEAN, STD, "bicubic"))(images))
    height, width = size
    short = min(size)
    tall, wide = SIZE * height // short, SIZE * width // short
    top, left = round((tall - SIZE) / 2), round((wide - SIZE) / 2)
    for picture, row in zip(images, ours, strict=True):
        for channel in range(3):
            plane = Image.fromarray(picture[..., channel] * 0.5 + 0.5)
            theirs = np.asarray(plane.resize((wide, tall), Image.Resampling.BICUBIC)).clip(0, 1)
            theirs = theirs[top : top + SIZE, left : left + SIZE]
            theirs = (theirs - MEAN[channel]) / STD[channel]
            np.testing.assert_allclose(row[..., channel], theirs, atol=2e-5)  # float32 sums


def test_batches_do_not_change_scores_and_a_caption_is_encoded_once():
    parts, images = model(), pictures(5)
    one, many = ClipScore(parts, batch_size=1), ClipScore(parts, batch_size=8)
    np.testing.assert_allclose(one(images, CAPTIONS), many(images, CAPTIONS), atol=1e-6)
    asked = len(parts.tokenizer.asked)
    many(images, CAPTIONS)
    assert len(parts.tokenizer.asked) == asked


def test_an_image_scores_highest_with_its_own_caption_if_features_agree():
    parts = model()
    image = pictures(1)
    own = prepared(image).reshape(1, -1) @ parts.vision_params.astype(np.float64)
    table = np.array(parts.text_params)
    table[ord("x") % 50] = own[0]
    table[0] = 0  # the padding sign
    score = ClipScore(parts._replace(text_params=table))
    assert score(image, ["x"])[0] == pytest.approx(1.0, abs=1e-5)


def test_the_name_says_weights_and_preprocessing():
    name = ClipScore(model()).name
    assert name == "tiny-clip (short side 12 bicubic, center crop 12, CLIP mean 0.48, 0.46, 0.41)"
    linear = clip_preprocessing((SIZE, MEAN, STD, "bilinear"))
    assert linear.method == "linear"
    assert "bilinear" in linear.label


def test_mistakes_are_said():
    score = ClipScore(model())
    with pytest.raises(ValueError, match="there are 1 captions, expected"):
        score(pictures(2), ["a"])
    with pytest.raises(ValueError, match="expected"):
        score(pictures(2)[:0], [])
    with pytest.raises(ValueError, match="'nearest', expected bicubic or bilinear"):
        clip_preprocessing((SIZE, MEAN, STD, "nearest"))

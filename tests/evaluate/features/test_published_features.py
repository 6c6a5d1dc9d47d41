"""Preprocessing against Pillow and arithmetic, and batches of a feature function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from memjax.evaluate.features import published as rooms
from memjax.evaluate.features.published import PREPROCESSINGS, Preprocessing, published_features


@dataclasses.dataclass(frozen=True)
class Corners:
    """A network that returns the first pixel, the last one and the weighted mean."""

    def apply(self, variables, x):
        mean = variables["params"]["weight"] * jnp.mean(x, axis=(1, 2, 3))
        return jnp.stack([x[:, 0, 0, 0], x[:, -1, -1, -1], mean], axis=-1)


PLAIN = Preprocessing("as is", 8, mean=(0.5,), std=(0.5,))


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pillow(image, size, method):
    """Resizes one channel in [0, 1] with Pillow, in floats."""
    height, width = size
    resized = Image.fromarray(image * 0.5 + 0.5).resize((width, height), method)
    return np.asarray(resized).clip(0, 1)


@pytest.mark.parametrize(
    ("name", "shape", "resized"),
    [
        ("sscd", (48, 64), (288, 384)),
        ("sscd", (500, 401), (359, 288)),
        ("sscd_square", (48, 64), (320, 320)),
        ("rad_dino", (640, 530), (625, 518)),
        ("dinov2", (100, 90), (284, 256)),
    ],
)
def test_resizing_is_that_of_pillow(name, shape, resized):
    preprocessing = dataclasses.replace(PREPROCESSINGS[name], mean=(0.5,), std=(0.5,), crop=0)
    x = pictures(1, *shape, 1)
    method = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
    expected = pillow(x[0, ..., 0], resized, method[preprocessing.method])
    actual = np.asarray(jax.jit(preprocessing)(x))[0, ..., 0] * 0.5 + 0.5
    assert actual.shape == resized
    # jax.image places pixels in float32; measured 8e-5, a fiftieth of a gray level
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def test_field_s_preprocessing_of_sscd_crops_and_does_not_standardise():
    x = pictures(2, 256, 301, 3)
    actual = np.asarray(PREPROCESSINGS["sscd_center_crop"](x))
    left = round((301 - 224) / 2)
    np.testing.assert_allclose(actual, x[:, 16:240, left : left + 224], atol=1e-6)


def test_x_ray_preprocessing_scales_grey_to_1024():
    color = pictures(2, 224, 224, 3)
    actual = np.asarray(PREPROCESSINGS["xrv"](color))
    np.testing.assert_allclose(actual[..., 0], 1024 * color.mean(axis=-1), atol=2e-3)
    wide = pictures(1, 224, 300, 1)
    cropped = PREPROCESSINGS["xrv"](wide)
    np.testing.assert_allclose(cropped, 1024 * wide[:, :, 38:262], atol=2e-3)


def test_imagenet_statistics_and_three_channels_from_grey():
    grey = np.full((1, 288, 288, 1), 0.2, np.float32)
    actual = np.asarray(PREPROCESSINGS["sscd"](grey))[0, 7, 9]
    expected = (0.6 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_values_beyond_the_range_are_clipped():
    x = 3.0 * pictures(1, 8, 8, 1)
    np.testing.assert_allclose(PLAIN(x), x.clip(-1, 1), atol=1e-6)


def test_batches_do_not_matter_and_compile_once():
    x = pictures(7, 8, 8, 1)
    rooms._features.clear_cache()
    params = {"weight": np.float32(2.0)}
    features = published_features(Corners(), params, PLAIN, weights="toy", batch_size=3)
    actual = features(x)
    assert features.name == "toy (as is)"
    assert (actual.shape, actual.dtype) == ((7, 3), np.float32)
    np.testing.assert_allclose(actual[:, 0], x[:, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(actual[:, 1], x[:, -1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(actual[:, 2], 2 * x.mean(axis=(1, 2, 3)), atol=1e-6)
    published_features(Corners(), {"weight": np.float32(5.0)}, PLAIN, weights="b", batch_size=3)(x)
    assert rooms._features._cache_size() == 1  # other weights are other arguments


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 8, 8, 1)), r"shape \(0, 8, 8, 1\), expected a non-empty"),
        (np.zeros((8, 8, 1)), r"shape \(8, 8, 1\)"),
        (np.full((1, 8, 8, 1), np.nan), "not finite"),
    ],
)
def test_images_that_cannot_be_are_refused(images, message):
    features = published_features(Corners(), {"weight": np.float32(1)}, PLAIN, weights="toy")
    with pytest.raises(ValueError, match=message):
        features(images)

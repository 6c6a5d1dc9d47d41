"""Published networks: golden outputs of torch, shapes of the full sizes, pooling, positions."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.published.densenet import DenseNet
from memjax.models.published.dinov2 import DINOv2, cubic_weights, interpolated_positions
from memjax.models.published.frozen_layers import FrozenBatchNorm, avg_pool, max_pool
from memjax.models.published.inception import InceptionV3
from memjax.models.published.sscd import SSCD_DISC_LARGE, SSCD_DISC_MIXUP, generalized_mean
from tests.models.published.published_cases import CASES, inputs, weights

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden_published.npz")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_golden_output_of_torch(name):
    module, _ = CASES[name]
    actual = np.asarray(jax.jit(module.apply)({"params": weights(name)}, inputs(name)))
    expected = GOLDEN[name]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the two images are told apart
    error = np.abs(actual - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < 5e-5, str(GOLDEN["header"])  # float32 rounding; measured 7e-7 to 9e-6


@pytest.mark.parametrize(
    ("module", "shape", "width", "parameters"),
    [
        # Parameters as torchvision, torchxrayvision and Hugging Face count them, without
        # classifiers, and two running statistics for each normalized channel.
        (SSCD_DISC_MIXUP, (288, 288, 3), 512, 23_508_032 + 1_049_088 + 53_120),
        (SSCD_DISC_LARGE, (288, 288, 3), 1024, 42_128_704 + 2_098_176 + 137_856),
        (DenseNet(), (224, 224, 1), 1024, 6_953_856 - 2 * 49 * 64 + 83_648),
        (DINOv2(), (518, 518, 3), 768, 86_580_480 - 768),  # no mask token
        (InceptionV3(), (299, 299, 3), 2048, 21_785_568 + 34_432),
    ],
)
def test_full_size_has_the_published_number_of_parameters(module, shape, width, parameters):
    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert out.shape == (3, width)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters


def test_descriptors_of_sscd_have_unit_length():
    module, _ = CASES["sscd"]
    y = jax.jit(module.apply)({"params": weights("sscd")}, 3.0 * inputs("sscd"))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), 1.0, atol=1e-6)


def test_generalized_mean_lies_between_mean_and_maximum():
    x = np.abs(np.random.default_rng(0).normal(size=(2, 5, 7, 3))).astype(np.float32)
    np.testing.assert_allclose(generalized_mean(x, 1.0), x.mean(axis=(1, 2)), rtol=1e-5)
    expected = (x.astype(np.float64) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    np.testing.assert_allclose(generalized_mean(x, 3.0), expected, rtol=1e-5)
    np.testing.assert_allclose(generalized_mean(-x, 3.0), 1e-6, rtol=1e-3)


def test_frozen_norm_uses_the_stored_statistics():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    params = {"mean": [1.0, -2.0], "var": [4.0, 0.25], "scale": [3.0, 1.0], "bias": [0.0, 5.0]}
    params = {key: np.array(value, np.float32) for key, value in params.items()}
    y = FrozenBatchNorm(epsilon=0.0).apply({"params": params}, x)
    np.testing.assert_allclose(y[..., 0], 3 * (x[..., 0] - 1) / 2, atol=1e-5)
    np.testing.assert_allclose(y[..., 1], (x[..., 1] + 2) / 0.5 + 5, atol=1e-5)


def test_padding_counts_in_no_pool():
    x = np.full((1, 3, 3, 1), -2.0, np.float32)
    np.testing.assert_array_equal(avg_pool(x, 3, 1, 1), x)
    np.testing.assert_array_equal(max_pool(x, 3, 1, 1), x)


def test_cubic_weights_reproduce_straight_lines_inside_and_keep_constants():
    w = cubic_weights(10, 23)
    np.testing.assert_allclose(w.sum(axis=1), 1.0, atol=1e-6)
    place = (np.arange(23) + 0.5) * 10 / 23 - 0.5
    inside = (place >= 1) & (place <= 8)
    # a = −0.75 is not a = −0.5: a line comes out with a ripple of at most a tenth
    assert np.abs((w @ np.arange(10.0) - place)[inside]).max() < 0.1
    np.testing.assert_array_equal(cubic_weights(6, 6), np.eye(6))
    half = cubic_weights(4, 8)[3, :4]  # a quarter before pixel 2
    np.testing.assert_allclose(half, [-0.10546875, 0.87890625, 0.26171875, -0.03515625])


def test_positions_of_the_stored_size_are_untouched():
    stored = np.random.default_rng(0).normal(size=(1, 26, 4)).astype(np.float32)
    assert interpolated_positions(stored, 5, 5) is stored
    other = interpolated_positions(stored, 7, 3)
    assert other.shape == (1, 22, 4)
    np.testing.assert_array_equal(other[:, 0], stored[:, 0])
    grid = np.asarray(interpolated_positions(stored, 5, 10))[0, 1:].reshape(5, 10, 4)
    rows = stored[0, 1:].reshape(5, 5, 4)
    expected = np.einsum("cj,rjd->rcd", cubic_weights(5, 10), rows)
    np.testing.assert_allclose(grid, expected, atol=1e-6)

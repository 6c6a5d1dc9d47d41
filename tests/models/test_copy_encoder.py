"""The encoder network: any size and number of channels, and that it sees where things are."""

import jax
import numpy as np
import pytest

from memjax.models.copy_encoder import CopyEncoderNetwork, grid_means, num_halvings


@pytest.mark.parametrize("shape", [(16, 16, 1), (32, 32, 3), (28, 36, 1)])
def test_any_size_and_channels(shape):
    module = CopyEncoderNetwork(features=24, width=8)
    params = module.init_params(jax.random.key(0), shape)
    x = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32)
    embed = jax.jit(lambda x: module.apply({"params": params}, x))
    z = np.asarray(embed(x))
    assert z.shape == (3, 24)
    # one image's numbers do not depend on the others'; 1e-5: sums in another order
    np.testing.assert_allclose(embed(x[1:2])[0], z[1], atol=1e-5)
    assert np.abs(z[0] - z[1]).max() > 1e-3


def test_halvings_end_at_the_grid():
    assert [num_halvings(side) for side in (16, 28, 32, 64, 224, 256)] == [2, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [4, 5, 7, 9])
def test_grid_means_are_means(size):
    rows = grid_means(size)
    assert rows.shape == (4, size)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-6)
    assert (rows.any(axis=0)).all()
    if size == 4:
        np.testing.assert_array_equal(rows, np.eye(4))


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ValueError, match="12×40 pixels, the copy encoder needs at least 16"):
        CopyEncoderNetwork().init_params(jax.random.key(0), (12, 40, 1))
    with pytest.raises(ValueError, match="width is 12; expected a multiple of 8"):
        CopyEncoderNetwork(width=12).init_params(jax.random.key(0), (16, 16, 1))

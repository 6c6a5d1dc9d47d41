"""The convolution's own gradient rule against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.convolution import convolve

CASES = [
    (1, 3, ((1, 1), (1, 1))),
    (2, 3, ((1, 1), (1, 1))),
    (2, 3, ((0, 1), (0, 1))),
    (1, 1, ((0, 0), (0, 0))),
    (1, 2, ((1, 0), (0, 1))),
]


def plain(x, kernel, stride, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout
    )


FEW, MANY = 5, 400  # output channels: fewer and more than twice the pixels


def inputs(size, taps, features=FEW):
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (2, size, size + 1, 3))
    return x, jax.random.normal(kernel_key, (taps, taps, 3, features))


@pytest.mark.parametrize(("stride", "taps", "padding"), CASES)
@pytest.mark.parametrize(("size", "features"), [(7, FEW), (8, FEW), (7, MANY)])
def test_value_and_gradients_equal_those_of_jax(stride, taps, padding, size, features):
    x, kernel = inputs(size, taps, features)

    def run(fn):
        return jax.value_and_grad(
            lambda x, k: jnp.sum(jnp.sin(fn(x, k, stride, padding))), argnums=(0, 1)
        )(x, kernel)

    ours, theirs = run(convolve), run(plain)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # float32 sums of up to 400 channels of 9 taps, in another order
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.sqrt(features))


@pytest.mark.parametrize(("features", "flips"), [(FEW, True), (MANY, False)])
def test_many_channels_on_few_pixels_need_no_flipped_kernel(features, flips):
    x, kernel = inputs(7, 3, features)
    padding = ((1, 1), (1, 1))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(convolve(x, kernel, 1, padding) ** 2)))
    text = gradient.lower(x).as_text()
    assert ("stablehlo.reverse" in text) == flips
    assert ("stablehlo.dot_general" in text) != flips


@pytest.mark.parametrize("features", [FEW, MANY])
def test_forward_mode_vmap_and_second_derivatives(features):
    x, kernel = inputs(6, 3, features)
    padding = ((1, 1), (1, 1))

    def energy(fn, x):
        return jnp.sum(jnp.sin(fn(x, kernel, 1, padding)))

    def products(fn):
        tangent = jax.jvp(lambda x: fn(x, kernel, 1, padding), (x,), (jnp.cos(x),))[1]
        hessian = jax.jvp(jax.grad(lambda x: energy(fn, x)), (x,), (jnp.cos(x),))[1]
        mapped = jax.vmap(jax.grad(lambda x: energy(fn, x)))(jnp.stack([x, 2 * x]))
        return tangent, hessian, mapped

    for a, b in zip(products(convolve), products(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

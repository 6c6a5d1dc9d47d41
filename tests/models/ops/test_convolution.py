"""The convolution's own gradient rule against JAX's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.models.ops.convolution import convolve

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


WIDE = 128


def wide(size=16):
    keys = jax.random.split(jax.random.key(1))
    kernel = jax.random.normal(keys[1], (3, 3, WIDE, WIDE + 8)) / np.sqrt(9 * WIDE)
    return jax.random.normal(keys[0], (2, size, size - 2, WIDE)), kernel


def in_float64(x, kernel, g):
    """Returns the convolution and both gradients by sums over the taps, in NumPy."""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    spread = np.zeros_like(padded)
    y, of_kernel = np.zeros_like(g), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + height, j : j + width]
            y += part @ kernel[i, j]
            spread[:, i : i + height, j : j + width] += g @ kernel[i, j].T
            of_kernel[i, j] = np.tensordot(part, g, ([0, 1, 2], [0, 1, 2]))
    return y, spread[:, 1:-1, 1:-1], of_kernel


def test_wide_convolutions_equal_float64_sums_over_the_taps():
    """By Winograd's algorithm on CPU: a few times a direct convolution's rounding at most."""
    x, kernel = wide()
    g = jax.random.normal(jax.random.key(2), (*x.shape[:3], kernel.shape[3]))
    conv = partial(convolve, stride=1, padding=((1, 1), (1, 1)))

    @jax.jit
    def run(x, kernel, g):
        y, back = jax.vjp(conv, x, kernel)
        return y, *back(g)

    for ours, exact in zip(run(x, kernel, g), in_float64(x, kernel, g), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-5 * np.sqrt(np.mean(np.square(exact))))


@pytest.mark.parametrize(
    ("change", "pays"),
    [
        ({}, True),
        ({"dtype": jnp.bfloat16}, False),
        ({"size": 15}, False),
        ({"stride": 2}, False),
        ({"padding": ((0, 1), (0, 1))}, False),
        ({"features": 64}, False),
        ({"rows": 1, "size": 14}, False),
    ],
)
def test_where_winograds_algorithm_is_taken(change, pays):
    usual = {"rows": 2, "size": 16, "features": WIDE, "dtype": jnp.float32, "stride": 1}
    case = usual | {"padding": ((1, 1), (1, 1))} | change
    x = jnp.zeros((case["rows"], case["size"], case["size"], WIDE), case["dtype"])
    kernel = jnp.zeros((3, 3, WIDE, case["features"]), case["dtype"])
    fn = jax.jit(partial(convolve, stride=case["stride"], padding=case["padding"]))
    lowered = fn.trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
    assert lowered.count("stablehlo.dot_general") == (16 if pays else 0)
    assert lowered.count("stablehlo.convolution") == (0 if pays else 1)
    elsewhere = fn.trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert elsewhere.count("stablehlo.convolution") == 1


def test_second_derivatives_and_vmap_of_wide_convolutions():
    x, kernel = wide()
    padding = ((1, 1), (1, 1))

    @partial(jax.jit, static_argnums=0)
    def products(fn, x):
        energy = lambda x: jnp.sum(jnp.sin(fn(x, kernel, 1, padding)))  # noqa: E731
        hessian = jax.jvp(jax.grad(energy), (x,), (jnp.cos(x),))[1]
        return hessian, jax.vmap(jax.grad(energy))(jnp.stack([x, 2 * x]))

    for a, b in zip(products(convolve, x), products(plain, x), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("taps", "padding", "features"),
    [
        (3, ((1, 1), (1, 1)), 40),
        (3, ((2, 0), (0, 1)), 5),
        (2, ((1, 0), (0, 1)), 32),
        (1, ((0, 0), (0, 0)), 32),
    ],
)
def test_gradient_of_kernels_of_some_channels(taps, padding, features):
    """By a product a row of taps on CPU, where there is more than one tap."""
    keys = jax.random.split(jax.random.key(3))
    x = jax.random.normal(keys[0], (2, 9, 7, 16))
    kernel = jax.random.normal(keys[1], (taps, taps, 16, features))

    def gradient(fn):
        return jax.jit(jax.grad(lambda k: jnp.sum(jnp.sin(fn(x, k, 1, padding) / 12))))

    ours, theirs = gradient(convolve)(kernel), gradient(plain)(kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())
    lowered = {
        platform: gradient(convolve).trace(kernel).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    products = {name: text.count("stablehlo.dot_general") for name, text in lowered.items()}
    assert products == {"cpu": taps if taps > 1 else 0, "tpu": 0}


def test_gradients_of_kernels_by_rows_one_an_example():
    keys = jax.random.split(jax.random.key(4))
    x = jax.random.normal(keys[0], (3, 8, 8, 16))
    kernel = jax.random.normal(keys[1], (3, 3, 16, 8)) / 12

    def each(fn):
        loss = lambda k, row: jnp.sum(jnp.sin(fn(row[None], k, 1, ((1, 1), (1, 1)))))  # noqa: E731
        return jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(kernel, x)

    theirs = each(plain)
    np.testing.assert_allclose(each(convolve), theirs, atol=1e-6 * np.abs(theirs).max())


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

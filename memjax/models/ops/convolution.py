"""A convolution whose gradient is fast inside loops on CPU, too.

XLA's CPU compiler brings convolutions into the layout of its fast kernel at the top level of a
program only. JAX's own rule writes the gradient with respect to the input with a transposed kernel
layout, so inside ``while`` and ``scan`` (an embedding optimized in a loop) it takes a slow path.
Here that gradient is written in the canonical layout from the start. Values are unchanged. Wide 3×3
convolutions in float32 are made by Winograd's algorithm there, which needs less than half of the
products; other platforms have it in their own libraries.

.. note:: A primitive rather than ``custom_vjp`` (no forward mode) or ``custom_jvp`` with
    ``linear_call`` (no ``vmap``): Hessian products and per-example gradients both need to work.
"""

import itertools
import math
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.ops import winograd

Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_LEAST_CHANNELS = 16  # of the input; below, XLA's gradient of the kernel was as fast on two cores


def _plain(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
    )


def _on_cpu(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    if winograd.pays(x.shape[:3], kernel, stride, padding):
        return winograd.winograd(x, kernel)
    return _plain(x, kernel, stride, padding)


def _input_gradient(g: Array, kernel: Array, stride: int, padding: Padding, shape) -> Array:
    """Returns the gradient with respect to the input, by the cheapest of three ways."""
    few_pixels = 2 * math.prod(g.shape[:3]) <= kernel.shape[3]
    flip = partial(_by_flipped_kernel, stride=stride, padding=padding, shape=shape)
    if winograd.pays(g.shape[:3], kernel, stride, padding):
        fast = winograd.input_gradient
        return jax.lax.platform_dependent(g, kernel, cpu=fast, default=flip)
    if stride > 1 or not few_pixels:
        return flip(g, kernel)
    taps = partial(_by_taps, padding=padding, shape=shape)
    return jax.lax.platform_dependent(g, kernel, cpu=taps, default=flip)


def _by_taps(g: Array, kernel: Array, padding: Padding, shape) -> Array:
    """One product with all taps, then their sum, each shifted to its place.

    No flipped copy of the kernel is made, whose cost exceeds that of the products where a kernel
    of many channels meets few pixels (the coarse levels of Stable Diffusion: half of the time).
    """
    rows, columns, channels, _ = kernel.shape
    flat = jax.lax.dot_general(
        g.reshape(-1, g.shape[-1]),
        kernel.reshape(-1, kernel.shape[-1]),
        (((1,), (1,)), ((), ())),
    )
    y = flat.reshape(*g.shape[:3], rows, columns, channels)
    edges = [
        (taps - 1 - low, taps - 1 - high)
        for taps, (low, high) in zip(kernel.shape[:2], padding, strict=True)
    ]
    none = (0, 0, 0)
    around = [none, *((low, high, 0) for low, high in edges), none, none, none]
    y = jax.lax.pad(y, jnp.zeros((), y.dtype), around)
    height, width = shape
    parts = []
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = rows - 1 - i, columns - 1 - j
        parts.append(y[:, top : top + height, left : left + width, i, j])
    return sum(parts[1:], parts[0])


def _by_flipped_kernel(g: Array, kernel: Array, stride: int, padding: Padding, shape) -> Array:
    """Correlates the gradient, spread by the stride, with the flipped kernel."""
    edges = []
    for size, out, taps, (low, _) in zip(
        shape, g.shape[1:3], kernel.shape[:2], padding, strict=True
    ):
        spread, before = (out - 1) * stride + 1, taps - 1 - low
        edges.append((before, size - spread - before + taps - 1))
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return jax.lax.conv_general_dilated(
        g, flipped, (1, 1), edges, lhs_dilation=(stride, stride), dimension_numbers=_LAYOUT
    )


_convolve_p = Primitive("memjax_convolve")


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c f"],
    stride: int,
    padding: Padding,
) -> Float[Array, "b h2 w2 f"]:
    """Returns the cross-correlation of ``x`` with ``kernel``; differentiable in both modes.

    Args:
        x: Images.
        kernel: Taps.
        stride: Step of the output in both directions; static.
        padding: Zeros before and after, in both directions; static.
    """
    return _convolve_p.bind(x, kernel, stride=stride, padding=padding)


def is_product(primitive: Primitive, *arguments: Any, **parameters: Any) -> bool:
    """Whether a recomputing backward pass keeps a result: of convolutions and weights' products.

    A policy of :func:`jax.checkpoint`. What lies between them (norms, activations, the pixels'
    attention to each other) is cheap to make again.
    """
    if primitive is _convolve_p:
        return True
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return dots(primitive, *arguments, **parameters)


def _abstract(x, kernel, *, stride, padding):
    shape = jax.eval_shape(partial(_plain, stride=stride, padding=padding), x, kernel)
    return jax.core.ShapedArray(shape.shape, shape.dtype)


def _transpose_x(g, x, kernel, *, stride, padding):
    return _input_gradient(g, kernel, stride, padding, x.aval.shape[1:3])


def _transpose_kernel(g, x, kernel, *, stride, padding):
    shape = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)

    def by_jax(x: Array, g: Array) -> Array:
        linear = partial(_plain, x, stride=stride, padding=padding)
        return jax.linear_transpose(linear, shape)(g)[0]

    if winograd.pays(g.shape[:3], kernel.aval, stride, padding):
        return jax.lax.platform_dependent(x, g, cpu=winograd.kernel_gradient, default=by_jax)
    if _rows_pay(kernel.aval, stride, padding):
        by_rows = partial(_kernel_by_rows, padding=padding, taps=shape.shape[:2])
        return jax.lax.platform_dependent(x, g, cpu=by_rows, default=by_jax)
    return by_jax(x, g)


def _rows_pay(kernel: Any, stride: int, padding: Padding) -> bool:
    """Whether :func:`_kernel_by_rows` is the faster way on CPU; measured on two cores."""
    return (
        stride == 1
        and kernel.dtype == jnp.float32
        and kernel.shape[2] >= _LEAST_CHANNELS
        and math.prod(kernel.shape[:2]) > 1
        and all(
            0 <= edge < taps
            for taps, edges in zip(kernel.shape[:2], padding, strict=True)
            for edge in edges
        )
    )


def _kernel_by_rows(x: Array, g: Array, padding: Padding, taps: tuple[int, int]) -> Array:
    """One product a row of taps: the input's pixels with the gradients that they reached.

    The gradients for all columns of taps lie side by side, so the products are wide. XLA's own
    kernel for a gradient of the kernel runs on one core here and takes two to six times as long.
    """
    height, width, channels = x.shape[1:]
    around = [
        (size - 1 - low, size - 1 - high, 0)
        for size, (low, high) in zip(taps, padding, strict=True)
    ]
    padded = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    columns = [padded[:, :, j : j + width] for j in reversed(range(taps[1]))]
    wide, flat = jnp.concatenate(columns, axis=-1), x.reshape(-1, channels)
    rows = [
        jax.lax.dot_general(
            flat,
            wide[:, i : i + height].reshape(-1, wide.shape[-1]),
            (((0,), (0,)), ((), ())),
        ).reshape(channels, taps[1], -1)
        for i in reversed(range(taps[0]))
    ]
    return jnp.stack(rows).transpose(0, 2, 1, 3)


def _batch(args, axes, *, stride, padding):
    mapped = jax.vmap(partial(_plain, stride=stride, padding=padding), in_axes=axes)
    return mapped(*args), 0


_convolve_p.def_impl(jax.jit(convolve, static_argnames=("stride", "padding")))
_convolve_p.def_abstract_eval(_abstract)
mlir.register_lowering(_convolve_p, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_convolve_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
ad.defbilinear(_convolve_p, _transpose_x, _transpose_kernel)
batching.primitive_batchers[_convolve_p] = _batch

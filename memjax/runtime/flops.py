"""Counts the products of a JAX function: what a rate of arithmetic is measured in.

XLA's own count takes the body of a loop once; here it is taken as often as it runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Returns the floating point operations of all matrix products and convolutions of ``fn``.

    A multiplication and an addition are two. Of branches the dearest counts (a convolution is its
    products, whichever way a platform makes them); the body of a
    ``while`` counts once, that of a ``scan`` as often as it runs.

    Args:
        fn: What is traced.
        *arguments: Arrays or ``jax.ShapeDtypeStruct``.
    """
    return _of_jaxpr(jax.make_jaxpr(fn)(*arguments).jaxpr)


def flops_of(traced: jax.stages.Traced) -> float:
    """Returns the same of a jitted function that is traced already."""
    return _of_jaxpr(traced.jaxpr.jaxpr)


def count_kernel_flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Returns how many of them a hand-written kernel does on one of the platforms.

    XLA's own count knows nothing of what a kernel does inside; what the other platforms do instead
    tells it.
    """
    return _of_kernels(jax.make_jaxpr(fn)(*arguments).jaxpr)


def _of_kernels(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            branches = [branch.jaxpr for branch in equation.params["branches"]]
            kernel = any(map(_has_kernel, branches))
            total += _of_equation(equation) if kernel else max(map(_of_kernels, branches))
        else:
            total += _times(equation) * sum(map(_of_kernels, _inner(equation.params)))
    return total


def _times(equation: Any) -> int:
    """Returns how often the programs inside an equation run, as far as that is known."""
    return int(equation.params["length"]) if equation.primitive.name == "scan" else 1


def _has_kernel(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name == "pallas_call" or any(map(_has_kernel, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _of_jaxpr(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    if name in ("conv_general_dilated", "memjax_convolve"):
        kernel = equation.invars[1].aval
        dilation = math.prod(params.get("lhs_dilation", (1,)))
        out_axis = params["dimension_numbers"].rhs_spec[0] if "dimension_numbers" in params else -1
        taps = kernel.size / kernel.shape[out_axis] / dilation
        return 2.0 * equation.outvars[0].aval.size * taps
    if name == "cond":
        return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    return _times(equation) * sum(_of_jaxpr(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[Any]:
    """Returns the programs among an equation's parameters, open."""
    opened = [getattr(value, "jaxpr", value) for value in params.values()]
    return [value for value in opened if hasattr(value, "eqns")]

"""3×3 convolutions in 16 products a 2×2 square of pixels instead of 36, for float32 on CPU.

``Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A`` on every 4×4 window ``d`` of stride 2. The 16 products are products
of matrices over channels. Beside a direct convolution the rounding is a few times larger (4·10⁻⁶ of
the output's size); a value that is not finite spreads to its whole window. Few channels or few
pixels do not repay the transforms: :func:`pays` says where memjax takes this way.

References:
    Winograd 1980; Lavin and Gray 2015, arXiv 1509.09308, Eq. 8 and section 4.1 (F(2×2, 3×3)).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array

_LEAST_CHANNELS, _LEAST_SQUARES = 128, 64  # below, XLA's own kernel was as fast on two CPU cores
Four = list[Array]
_LAST_FIRST = (3, 1, 2, 0)  # of a flipped kernel: its taps' transforms in another order


def pays(pixels: Sequence[int], kernel: Any, stride: int, padding: Any) -> bool:
    """Whether a convolution of ``(rows, height, width)`` is one of these, and large enough."""
    rows, height, width = pixels
    return (
        kernel.shape[:2] == (3, 3)
        and stride == 1
        and padding == ((1, 1), (1, 1))
        and kernel.dtype == jnp.float32
        and height % 2 == 0
        and width % 2 == 0
        and rows * height * width >= 4 * _LEAST_SQUARES
        and min(kernel.shape[2:]) >= _LEAST_CHANNELS
    )


def winograd(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"]) -> Array:
    """Returns the cross-correlation, padded by one pixel; height and width are even."""
    taps = _of_kernel(kernel)
    windows = _of_image(x)
    return _assemble([[_dot(windows[i][j], taps[i][j], 0) for j in range(4)] for i in range(4)], x)


def input_gradient(g: Float[Array, "b h w f"], kernel: Float[Array, "3 3 c f"]) -> Array:
    """Returns its gradient with respect to ``x``: a correlation with the flipped kernel.

    No flipped copy of the kernel is made: the products contract its other axis.
    """
    taps = _of_kernel(kernel)
    windows = _of_image(g)
    products = [
        [_dot(windows[i][j], taps[_LAST_FIRST[i]][_LAST_FIRST[j]], 1) for j in range(4)]
        for i in range(4)
    ]
    return _assemble(products, g)


def kernel_gradient(x: Float[Array, "b h w c"], g: Float[Array, "b h w f"]) -> Array:
    """Returns its gradient with respect to the kernel."""
    windows, outputs = _of_image(x), _of_output(g)
    products = [
        [
            jax.lax.dot_general(_flat(v), _flat(m), (((0,), (0,)), ((), ())))
            for v, m in zip(*rows, strict=True)
        ]
        for rows in zip(windows, outputs, strict=True)
    ]
    return _to_kernel(products)


def _flat(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])


def _dot(window: Array, taps: Array, axis: int) -> Array:
    """``axis``: of the taps that is contracted."""
    y = jax.lax.dot_general(_flat(window), taps, (((1,), (axis,)), ((), ())))
    return y.reshape(*window.shape[:3], -1)


def _spread(g: Sequence[Array]) -> Four:
    """G g."""
    ends, half = g[0] + g[2], 0.5 * g[1]
    return [g[0], 0.5 * ends + half, 0.5 * ends - half, g[2]]


def _of_kernel(kernel: Array) -> list[Four]:
    return [_spread([row[0], row[1], row[2]]) for row in _spread([kernel[0], kernel[1], kernel[2]])]


def _differences(d: Sequence[Array]) -> Four:
    """Bᵀ d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_image(x: Array) -> list[Four]:
    """Transformed windows, 4×4 of ``[b, h/2, w/2, c]``."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _differences([padded[:, i : i + h - 1 : 2] for i in range(4)])
    return [_differences([row[:, :, j : j + w - 1 : 2] for j in range(4)]) for row in rows]


def _sums(m: Sequence[Array]) -> list[Array]:
    """Aᵀ m."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _assemble(products: list[Four], x: Array) -> Array:
    b, h, w = x.shape[:3]
    columns = [_sums(row) for row in products]
    phases = [_sums([column[q] for column in columns]) for q in (0, 1)]
    rows = [jnp.stack([phases[q][p] for q in (0, 1)], axis=3) for p in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, h, w, -1)


def _doubled(y: Sequence[Array]) -> Four:
    """A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _of_output(g: Array) -> list[Four]:
    rows = _doubled([g[:, 0::2], g[:, 1::2]])
    return [_doubled([row[:, :, 0::2], row[:, :, 1::2]]) for row in rows]


def _gathered(u: Sequence[Array]) -> list[Array]:
    """Gᵀ u."""
    middle = 0.5 * (u[1] + u[2])
    return [u[0] + middle, 0.5 * (u[1] - u[2]), middle + u[3]]


def _to_kernel(products: list[Four]) -> Array:
    rows = [_gathered(row) for row in products]
    taps = [_gathered([row[j] for row in rows]) for j in range(3)]  # [column][row]
    return jnp.stack([jnp.stack([taps[j][i] for j in range(3)]) for i in range(3)])

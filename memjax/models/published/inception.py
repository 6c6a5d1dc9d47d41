"""Inception-v3 as the Fréchet Inception Distance uses it: 2,048 pooled features.

The weights and three details are those of the 2015 TensorFlow graph that FID was defined with, as
ported by pytorch-fid: average pools leave padding out of the mean, and the last block takes a
maximum where every other implementation takes a mean.

References:
    Szegedy et al. 2016, arXiv 1512.00567, §6 and Figs. 5–7; Heusel et al. 2017, arXiv 1706.08500,
    appendix A1 (which layer FID reads).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.published.frozen_layers import (
    FrozenBatchNorm,
    FrozenConv,
    Pair,
    avg_pool,
    global_mean,
    max_pool,
)


class ConvNorm(nn.Module):
    """Convolution, norm (ε = 10⁻³), ReLU; ``stride`` 1 keeps the size unless ``valid``."""

    features: int
    kernel_size: Pair = (1, 1)
    stride: int = 1
    valid: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        kept = self.stride == 1 and not self.valid
        height, width = self.kernel_size
        edge = (height // 2, width // 2) if kept else (0, 0)
        conv = FrozenConv(self.features, self.kernel_size, self.stride, edge, name="conv")
        return nn.relu(FrozenBatchNorm(1e-3, name="bn")(conv(x)))


# A step of a branch: its key, output channels, kernel and stride.
Step = tuple[str, int, Pair, int]


def _chain(prefix: str, *layers: tuple[int, Pair] | tuple[int, Pair, int]) -> list[Step]:
    """Numbers the layers ``prefix_1``, ``prefix_2`` …; the stride is 1 where none is given."""
    return [
        (f"{prefix}_{k}", layer[0], layer[1], layer[2] if len(layer) == 3 else 1)
        for k, layer in enumerate(layers, start=1)
    ]


def _block_a(pool: int) -> tuple[list[list[Step]], str, int]:
    return (
        [
            [("branch1x1", 64, (1, 1), 1)],
            _chain("branch5x5", (48, (1, 1)), (64, (5, 5))),
            _chain("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        ],
        "mean",
        pool,
    )


def _block_c(width: int) -> tuple[list[list[Step]], str, int]:
    tall, wide = (7, 1), (1, 7)
    double = [(width, (1, 1)), (width, tall), (width, wide), (width, tall), (192, wide)]
    return (
        [
            [("branch1x1", 192, (1, 1), 1)],
            _chain("branch7x7", (width, (1, 1)), (width, wide), (192, tall)),
            _chain("branch7x7dbl", *double),
        ],
        "mean",
        192,
    )


# Block → branches, how the pooled branch pools, and its output channels (0: no convolution).
_BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": (
        [
            [("branch3x3", 384, (3, 3), 2)],
            _chain("branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3), 2)),
        ],
        "halve",
        0,
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": (
        [
            _chain("branch3x3", (192, (1, 1)), (320, (3, 3), 2)),
            _chain("branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2)),
        ],
        "halve",
        0,
    ),
}


def _pool(x: Array, kind: str) -> Array:
    if kind == "halve":
        return max_pool(x, 3, 2)
    return avg_pool(x, 3, 1, 1) if kind == "mean" else max_pool(x, 3, 1, 1)


class Mixed(nn.Module):
    """Parallel chains of convolutions and one pooled branch, side by side in the channels."""

    block: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        branches, pool, features = _BLOCKS[self.block]
        out = []
        for branch in branches:
            y = x
            for name, width, kernel, stride in branch:
                y = ConvNorm(width, kernel, stride, name=name)(y)
            out.append(y)
        y = _pool(x, pool)
        out.append(ConvNorm(features, name="branch_pool")(y) if features else y)
        return jnp.concatenate(out, axis=-1)


class MixedSplit(nn.Module):
    """The widest blocks: two branches end in a 1×3 and a 3×1 convolution side by side."""

    pool: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 2048"]:
        def split(name: str, y: Array) -> list[Array]:
            kernels: dict[str, Pair] = {"a": (1, 3), "b": (3, 1)}
            return [ConvNorm(384, k, name=f"{name}{end}")(y) for end, k in kernels.items()]

        single = ConvNorm(384, name="branch3x3_1")(x)
        double = ConvNorm(448, name="branch3x3dbl_1")(x)
        double = ConvNorm(384, (3, 3), name="branch3x3dbl_2")(double)
        out = [ConvNorm(320, name="branch1x1")(x)]
        out += [*split("branch3x3_2", single), *split("branch3x3dbl_3", double)]
        out.append(ConvNorm(192, name="branch_pool")(_pool(x, self.pool)))
        return jnp.concatenate(out, axis=-1)


class InceptionV3(nn.Module):
    """Images of at least 75 pixels a side, in [−1, 1], to 2,048 numbers; FID resizes to 299."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        x = ConvNorm(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), valid=True, name="Conv2d_2a_3x3")(x)
        x = max_pool(ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x), 3, 2)
        x = ConvNorm(80, name="Conv2d_3b_1x1")(x)
        x = max_pool(ConvNorm(192, (3, 3), valid=True, name="Conv2d_4a_3x3")(x), 3, 2)
        for block in _BLOCKS:
            x = Mixed(block, name=block)(x)
        x = MixedSplit("mean", name="Mixed_7b")(x)
        return global_mean(MixedSplit("max", name="Mixed_7c")(x))

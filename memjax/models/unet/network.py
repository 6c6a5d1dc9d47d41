"""One conditional U-Net whose configurations cover the tiny demo and Stable Diffusion 1 and 2.

References:
    Ronneberger et al. 2015, arXiv 1505.04597; Rombach et al. 2022, arXiv 2112.10752. Arithmetic
    and names follow diffusers' ``UNet2DConditionModel``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.types import Array, TokenCond
from memjax.models.ops.convolution import is_product
from memjax.models.unet.attention import SpatialTransformer
from memjax.models.unet.layers import (
    Conv,
    Dtype,
    EmbeddingMLP,
    GroupNorm,
    Refinement,
    ResnetBlock,
    UpsampleConv,
    depth_to_space,
    space_to_depth,
    timestep_embedding,
)

REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {"full": None, "products": is_product}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The hashable recipe of a U-Net; a *level* is one resolution, 0 the finest.

    Attributes:
        in_channels: Channels of ``x_t``.
        out_channels: Channels of the prediction.
        block_out_channels: Channels of each level; its length is the number of levels.
        layers_per_block: ResNet blocks a level on the way down (one more on the way up).
        attention_blocks: Whether each level attends (to itself and to the condition).
        mid_attention: Whether the middle attends; without, it is one ResNet block, else two.
        num_heads: Attention heads, for all levels or each; diffusers calls this number
            ``attention_head_dim``.
        transformer_layers: Transformer blocks per attention, for all levels or each.
        cross_attention_dim: Width of the condition's token embeddings.
        norm_num_groups: Groups of every GroupNorm.
        norm_eps: ε of the ResNet blocks' GroupNorm (the attention's is 1e-6, as in diffusers).
        pooled_condition: Add an MLP of the masked mean of the condition tokens to the time
            embedding; diffusers' ``class_embed_type='projection'``.
        patch_size: Side of the pixel squares folded into channels before the first convolution
            and unfolded after the last; 1 for none.
        refine_channels: Channels of a residual at full resolution behind the unfolded patches, see
            :class:`Refinement`; 0 for none. Without, samples of patches show their grid.
        zero_init_out: Start the last convolution at zero, for training from scratch.
        remat: Recompute the blocks in the backward pass: less memory, more time.
        remat_policy: What is kept of a recomputed block: ``full`` recomputes all of it (least
            memory, about a third more time), ``products`` keeps what convolutions and products
            with weights gave.
        dtype: Compute dtype by name; parameters and norm statistics stay float32.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_blocks: tuple[bool, ...] = (True, True, True, False)
    mid_attention: bool = True
    num_heads: int | tuple[int, ...] = 8
    transformer_layers: int | tuple[int, ...] = 1
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    pooled_condition: bool = False
    patch_size: int = 1
    refine_channels: int = 0
    zero_init_out: bool = True
    remat: bool = False
    remat_policy: str = "full"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        levels = self.num_levels
        if levels < 1:
            raise ValueError("block_out_channels is empty, expected the channels of each level.")
        for name in ("attention_blocks", "num_heads", "transformer_layers"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise ValueError(
                    f"{name}={value} has {len(value)} entries, expected {levels}: "
                    "one for each entry of block_out_channels."
                )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, expected 'float32' or 'bfloat16'.")
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(
                f"remat_policy is {self.remat_policy!r}, expected one of {tuple(REMAT_POLICIES)}."
            )
        self._validate_channels()

    def _validate_channels(self) -> None:
        if self.refine_channels < 0:
            raise ValueError(
                f"refine_channels is {self.refine_channels}, expected 0 (none) or more."
            )
        for level, channels in enumerate(self.block_out_channels):
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels[{level}] is {channels}, expected a multiple of "
                    f"norm_num_groups={self.norm_num_groups}."
                )
            if channels % self.heads(level):
                raise ValueError(
                    f"block_out_channels[{level}] is {channels}, expected a multiple of its "
                    f"num_heads={self.heads(level)}."
                )

    @property
    def num_levels(self) -> int:
        return len(self.block_out_channels)

    @property
    def size_multiple(self) -> int:
        """What height and width must be divisible by: ``patch_size · 2^(levels − 1)``."""
        return self.patch_size * 2 ** (self.num_levels - 1)

    @property
    def num_cross_attentions(self) -> int:
        """How many layers attend to the condition: 16 in Stable Diffusion."""
        each = [(2 * self.layers_per_block + 1) * self.depth(i) for i in range(self.num_levels)]
        levels = sum(n for n, attends in zip(each, self.attention_blocks, strict=True) if attends)
        return levels + (self.depth(self.num_levels - 1) if self.mid_attention else 0)

    def heads(self, level: int) -> int:
        return self.num_heads if isinstance(self.num_heads, int) else self.num_heads[level]

    def depth(self, level: int) -> int:
        layers = self.transformer_layers
        return layers if isinstance(layers, int) else layers[level]

    def validate(self, image_size: int | tuple[int, int]) -> None:
        """Refuses image sizes that the levels cannot halve evenly.

        Raises:
            ValueError: Height or width is not a multiple of :attr:`size_multiple`.
        """
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        for side in sides:
            if side < 1 or side % self.size_multiple:
                raise ValueError(
                    f"image size {side} is not divisible by {self.size_multiple} (patch_size "
                    f"{self.patch_size} times 2 per further level): resize the images to a "
                    "multiple of it or use fewer levels."
                )


class _Stage(nn.Module):
    """What all blocks share: the making of a ResNet block or an attention of one level."""

    config: UNetConfig
    level: int

    @property
    def dtype(self) -> Dtype:
        return jnp.dtype(self.config.dtype)

    def _block(self, kind: Any) -> Any:
        if not self.config.remat:
            return kind
        return nn.remat(kind, policy=REMAT_POLICIES[self.config.remat_policy])

    def resnet(self, features: int, index: int) -> nn.Module:
        make = self._block(ResnetBlock)
        groups, epsilon = self.config.norm_num_groups, self.config.norm_eps
        return make(features, groups, epsilon, self.dtype, name=f"resnets_{index}")

    def attention(self, index: int) -> nn.Module:
        make = self._block(SpatialTransformer)
        heads, depth = self.config.heads(self.level), self.config.depth(self.level)
        groups = self.config.norm_num_groups
        return make(heads, depth, groups, self.dtype, name=f"attentions_{index}")


class DownBlock(_Stage):
    """ResNet blocks with attention at one level, then a halving convolution."""

    @nn.compact
    def __call__(self, x: Array, emb: Array, cond: TokenCond) -> tuple[Array, list[Array]]:
        features = self.config.block_out_channels[self.level]
        skips = []
        for j in range(self.config.layers_per_block):
            x = self.resnet(features, j)(x, emb)
            if self.config.attention_blocks[self.level]:
                x = self.attention(j)(x, cond)
            skips.append(x)
        if self.level < self.config.num_levels - 1:
            x = Conv(features, strides=2, dtype=self.dtype, name="downsamplers_0_conv")(x)
            skips.append(x)
        return x, skips


class MidBlock(_Stage):
    """ResNet, attention, ResNet at the coarsest level; one ResNet block without attention."""

    @nn.compact
    def __call__(self, x: Array, emb: Array, cond: TokenCond) -> Array:
        features = self.config.block_out_channels[-1]
        x = self.resnet(features, 0)(x, emb)
        if self.config.mid_attention:
            x = self.attention(0)(x, cond)
            x = self.resnet(features, 1)(x, emb)
        return x


class UpBlock(_Stage):
    """ResNet blocks fed with the skips of their level, then a doubling convolution."""

    @nn.compact
    def __call__(self, x: Array, skips: list[Array], emb: Array, cond: TokenCond) -> Array:
        features = self.config.block_out_channels[self.level]
        for j in range(self.config.layers_per_block + 1):
            x = self.resnet(features, j)(jnp.concatenate([x, skips.pop()], axis=-1), emb)
            if self.config.attention_blocks[self.level]:
                x = self.attention(j)(x, cond)
        if self.level > 0:
            x = UpsampleConv(features, self.dtype, name="upsamplers_0_conv")(x)
        return x


class UNet(nn.Module):
    """Predicts the noise (or v) in ``x`` at timesteps ``t`` under a token condition."""

    config: UNetConfig

    @property
    def num_cross_attentions(self) -> int:
        return self.config.num_cross_attentions

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], t: Int[Array, " b"], cond: TokenCond
    ) -> Float[Array, "b h w c_out"]:
        c = self.config
        c.validate(x.shape[1:3])
        dtype = jnp.dtype(c.dtype)
        emb = self._embed(t, cond, dtype)
        image = x
        x = space_to_depth(x, c.patch_size)
        x = Conv(c.block_out_channels[0], dtype=dtype, name="conv_in")(x)
        skips = [x]
        for i in range(c.num_levels):
            x, more = DownBlock(c, i, name=f"down_blocks_{i}")(x, emb, cond)
            skips += more
        x = MidBlock(c, c.num_levels - 1, name="mid_block")(x, emb, cond)
        for i in range(c.num_levels):
            block = UpBlock(c, c.num_levels - 1 - i, name=f"up_blocks_{i}")
            x = block(x, [skips.pop() for _ in range(c.layers_per_block + 1)][::-1], emb, cond)
        y = self._head(x, dtype)
        if c.refine_channels:
            y = Refinement(c.refine_channels, dtype, name="refine")(y, image, emb)
        return y.astype(jnp.float32)

    def _embed(self, t: Array, cond: TokenCond, dtype: Dtype) -> Float[Array, "b e"]:
        base = self.config.block_out_channels[0]
        emb = EmbeddingMLP(4 * base, dtype, name="time_embedding")(timestep_embedding(t, base))
        if self.config.pooled_condition:
            emb = emb + EmbeddingMLP(4 * base, dtype, name="class_embedding")(masked_mean(cond))
        return emb

    def _head(self, x: Array, dtype: Dtype) -> Float[Array, "b h w c_out"]:
        c = self.config
        x = nn.silu(GroupNorm(c.norm_num_groups, c.norm_eps, dtype, name="conv_norm_out")(x))
        features = c.out_channels * c.patch_size**2
        x = Conv(features, zero_init=c.zero_init_out, dtype=dtype, name="conv_out")(x)
        return depth_to_space(x, c.patch_size)


def masked_mean(cond: TokenCond) -> Float[Array, "b d"]:
    """Returns the mean embedding of each row's real tokens (zero where there is none)."""
    weight = cond.mask.astype(jnp.float32)[:, :, None]
    total = jnp.sum(cond.embeddings.astype(jnp.float32) * weight, axis=1)
    return total / jnp.maximum(jnp.sum(weight, axis=1), 1.0)

"""CLIP's image tower: a vision transformer whose class token is projected beside the texts.

References:
    Radford et al. 2021, arXiv 2103.00020, §2.4; Dosovitskiy et al. 2021, arXiv 2010.11929,
    Eqs. 1–4.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.clip.layers import Embedding, check_tower, layer_norm, run_layers
from memjax.models.initial import initializer
from memjax.models.unet.layers import Dense, Dtype, space_to_depth


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """The hashable recipe of an image tower; the defaults are OpenAI's ViT-L/14.

    Attributes:
        image_size: Side of the square images in pixels.
        patch_size: Side of a patch in pixels.
        num_channels: Channels of an image.
        hidden_size: Width of a token.
        intermediate_size: Hidden width of the two-layer networks.
        num_layers: Encoder layers.
        num_heads: Attention heads.
        hidden_act: ``quick_gelu`` (OpenAI) or ``gelu`` (LAION).
        norm_eps: ε of the norms.
        projection_dim: Width of the projection that texts and images share.
        dtype: Compute dtype by name; parameters and norm statistics stay float32.
    """

    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    hidden_act: str = "quick_gelu"
    norm_eps: float = 1e-5
    projection_dim: int = 768
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_tower(self)
        if self.patch_size < 1 or self.image_size < self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}, expected at least one patch of "
                f"patch_size={self.patch_size} pixels: change one of the two."
            )

    @property
    def num_patches(self) -> int:
        """Patches of an image; pixels beyond whole patches are cut."""
        return (self.image_size // self.patch_size) ** 2


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its size, without bias, as one product of matrices."""

    features: int
    patch: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        patch, (b, h, w, c) = self.patch, x.shape
        shape = (patch, patch, c, self.features)
        kernel = self.param("kernel", initializer("kernel"), shape).astype(self.dtype)
        x = x[:, : h // patch * patch, : w // patch * patch].astype(self.dtype)
        x = space_to_depth(x, patch).reshape(-1, patch * patch * c)
        return (x @ kernel.reshape(-1, self.features)).reshape(b, -1, self.features)


class CLIPVision(nn.Module):
    """The image tower: projected class token, not normalized."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b p"]:
        """Returns float32 features of images already normalized by mean and deviation.

        Raises:
            ValueError: The images are not squares of :attr:`CLIPVisionConfig.image_size`.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if images.shape[1:3] != (c.image_size, c.image_size):
            raise ValueError(
                f"images are {images.shape[1]}×{images.shape[2]} pixels, expected "
                f"{c.image_size}×{c.image_size}: resize them as the model's preprocessing says."
            )
        name = "embeddings.patch_embedding"
        x = PatchEmbedding(c.hidden_size, c.patch_size, dtype, name=name)(images)
        first = self.param("embeddings.class_embedding", initializer("position"), (c.hidden_size,))
        first = jnp.broadcast_to(first.astype(dtype), (len(x), 1, c.hidden_size))
        name = "embeddings.position_embedding"
        places = Embedding(1 + c.num_patches, c.hidden_size, name=name)()
        x = jnp.concatenate([first, x], axis=1) + places.astype(dtype)[None]
        x = run_layers(c, layer_norm(c, "pre_layrnorm")(x), causal=False)
        pooled = layer_norm(c, "post_layernorm")(x[:, 0])
        project = Dense(c.projection_dim, use_bias=False, dtype=dtype, name="visual_projection")
        return project(pooled).astype(jnp.float32)

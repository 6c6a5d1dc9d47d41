"""DINOv2 and RAD-DINO: a vision transformer whose class token is the image's feature.

Submodules carry the keys of the published Hugging Face checkpoints.

References:
    Oquab et al. 2023, arXiv 2304.07193; Dosovitskiy et al. 2021, arXiv 2010.11929, Eqs. 1–4;
    Touvron et al. 2021, arXiv 2103.17239, §2.1 (LayerScale); Pérez-García et al. 2024,
    arXiv 2401.10815 (RAD-DINO: the same network on chest X-rays).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array
from memjax.models.published.frozen_layers import FrozenConv
from memjax.models.unet.attention import attend, gelu
from memjax.models.unet.layers import Dense


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer network, each normalized before and scaled after."""

    num_heads: int
    mlp_size: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        width = x.shape[-1]

        def heads(name: str, y: Array) -> Array:
            y = Dense(width, name=f"attention.attention.{name}")(y)
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        y = nn.LayerNorm(self.epsilon, name="norm1")(x)
        y = attend(heads("query", y), heads("key", y), heads("value", y)).reshape(x.shape)
        y = Dense(width, name="attention.output.dense")(y)
        x = x + LayerScale(name="layer_scale1")(y)
        y = nn.LayerNorm(self.epsilon, name="norm2")(x)
        y = Dense(width, name="mlp.fc2")(gelu(Dense(self.mlp_size, name="mlp.fc1")(y)))
        return x + LayerScale(name="layer_scale2")(y)


class LayerScale(nn.Module):
    """One learned factor a channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return x * self.param("lambda1", nn.initializers.ones, (x.shape[-1],))[None, None]


class DINOv2(nn.Module):
    """The class token after the last norm; the defaults are ViT-B/14.

    Attributes:
        hidden_size: Width of a token.
        num_layers: Encoder layers.
        num_heads: Attention heads.
        patch_size: Edge of a patch in pixels.
        grid: Patches a side that the stored position embeddings were made for.
        mlp_size: Hidden width of the two-layer networks.
        epsilon: ε of the norms.

    .. note:: Images of another size get interpolated positions, see
        :func:`interpolated_positions`: exactly as transformers' ``Dinov2Model`` (5.x) does it,
        without the offset of 0.1 patches of the authors' own repository.
    """

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    patch_size: int = 14
    grid: int = 37
    mlp_size: int = 3072
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Returns one feature vector per image; sides are cut to whole patches."""
        patch, width = self.patch_size, self.hidden_size
        name = "embeddings.patch_embeddings.projection"
        x = FrozenConv(width, (patch, patch), patch, use_bias=True, name=name)(x)
        rows, columns = x.shape[1:3]
        token = nn.initializers.normal(0.02)
        first = self.param("embeddings.cls_token", token, (1, 1, width))
        places = (1, 1 + self.grid**2, width)
        positions = self.param("embeddings.position_embeddings", token, places)
        x = x.reshape(len(x), rows * columns, width)
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, width)), x], axis=1)
        x = x + interpolated_positions(positions, rows, columns)
        for k in range(self.num_layers):
            layer = EncoderLayer(
                self.num_heads, self.mlp_size, self.epsilon, name=f"encoder.layer.{k}"
            )
            x = layer(x)
        return nn.LayerNorm(self.epsilon, name="layernorm")(x)[:, 0]


def interpolated_positions(
    positions: Float[Array, "1 n d"], rows: int, columns: int
) -> Float[Array, "1 m d"]:
    """Resamples position embeddings from their square grid to ``rows × columns`` patches.

    Bicubic with a = −0.75, pixel centers at half integers (``align_corners=False``), borders
    repeated, no smoothing when the grid shrinks; the class token's row is untouched.

    Args:
        positions: The class token's row, then the square grid row by row.
        rows: Patches from top to bottom.
        columns: Patches from left to right.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[0, 1:].reshape(side, side, -1)
    grid = jnp.einsum("ri,ijd->rjd", cubic_weights(side, rows), grid, precision="highest")
    grid = jnp.einsum("cj,rjd->rcd", cubic_weights(side, columns), grid, precision="highest")
    return jnp.concatenate([positions[:, :1], grid.reshape(1, rows * columns, -1)], axis=1)


def cubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new old"]:
    """Returns the matrix of Keys' cubic convolution (a = −0.75) along one axis.

    References:
        Keys 1981, "Cubic convolution interpolation for digital image processing", Eq. 4.
    """
    a = -0.75
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = np.zeros((new_size, size))
    for offset in range(-1, 3):
        tap = np.floor(place).astype(int) + offset
        s = np.abs(place - tap)
        near = (a + 2) * s**3 - (a + 3) * s**2 + 1
        far = a * (s**3 - 5 * s**2 + 8 * s - 4)
        value = np.where(s <= 1, near, far)
        np.add.at(weights, (np.arange(new_size), tap.clip(0, size - 1)), value)
    return weights.astype(np.float32)

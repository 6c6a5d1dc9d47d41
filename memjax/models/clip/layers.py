"""The transformer layers that CLIP's text and image towers share.

Submodules carry the keys of the published Hugging Face checkpoints, dots included. Statistics of
the layer norms and the softmax are float32 whatever the compute dtype.

References:
    Radford et al. 2021, arXiv 2103.00020, §2.4; Vaswani et al. 2017, arXiv 1706.03762, §3.2;
    Hendrycks and Gimpel 2016, arXiv 1606.08415, §2 (``quick_gelu`` is its sigmoid approximation).
"""

from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.types import Array
from memjax.models.initial import initializer
from memjax.models.unet.attention import attend, gelu
from memjax.models.unet.layers import Dense, Dtype


def quick_gelu(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """Returns ``x σ(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"quick_gelu": quick_gelu, "gelu": gelu}


class TowerConfig(Protocol):
    """What the towers' configurations have in common."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def dtype(self) -> str: ...


def check_tower(config: TowerConfig) -> None:
    """Refuses widths and activations that no tower can have.

    Raises:
        ValueError: With the offending value.
    """
    if config.num_heads < 1 or config.hidden_size % config.num_heads:
        raise ValueError(
            f"hidden_size is {config.hidden_size}, expected a multiple of "
            f"num_heads={config.num_heads}: change one of the two."
        )
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"hidden_act is {config.hidden_act!r}, expected one of {tuple(ACTIVATIONS)}: other "
            "CLIP models are not supported."
        )


class Embedding(nn.Module):
    """A table of vectors, one a row: ``embedding`` of shape ``[count, features]``."""

    count: int
    features: int

    @nn.compact
    def __call__(self, rows: Int[Array, "*n"] | None = None) -> Float[Array, "*n d"]:
        """Returns the chosen rows, or the whole table; rows beyond the table are NaN."""
        table = self.param("embedding", initializer("embedding"), (self.count, self.features))
        return table if rows is None else jnp.take(table, rows, axis=0)


def layer_norm(config: TowerConfig, name: str) -> nn.LayerNorm:
    """Returns the tower's layer norm; its variance is taken in two passes, in float32."""
    dtype = jnp.dtype(config.dtype)
    return nn.LayerNorm(config.norm_eps, dtype=dtype, use_fast_variance=False, name=name)


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer network, each normalized before and added after.

    Attributes:
        config: The tower's.
        causal: Whether a token sees only itself and those before it.
    """

    config: TowerConfig
    causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        x = x + self._attend(layer_norm(c, "layer_norm1")(x), dtype)
        y = layer_norm(c, "layer_norm2")(x)
        y = ACTIVATIONS[c.hidden_act](Dense(c.intermediate_size, dtype=dtype, name="mlp.fc1")(y))
        return x + Dense(c.hidden_size, dtype=dtype, name="mlp.fc2")(y)

    def _attend(self, y: Float[Array, "b n d"], dtype: Dtype) -> Float[Array, "b n d"]:
        shape = (*y.shape[:2], self.config.num_heads, -1)

        def heads(name: str) -> Float[Array, "b n h k"]:
            return Dense(y.shape[-1], dtype=dtype, name=f"self_attn.{name}")(y).reshape(shape)

        q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")
        if self.causal:
            out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        else:
            out = attend(q, k, v)
        return Dense(y.shape[-1], dtype=dtype, name="self_attn.out_proj")(out.reshape(y.shape))


def run_layers(
    config: TowerConfig, x: Float[Array, "b n d"], *, causal: bool
) -> Float[Array, "b n d"]:
    """Runs all layers, named ``encoder.layers.k``; called inside a compact method."""
    for k in range(config.num_layers):
        x = EncoderLayer(config, causal, name=f"encoder.layers.{k}")(x)
    return x

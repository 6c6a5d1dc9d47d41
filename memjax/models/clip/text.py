"""CLIP's text tower: what Stable Diffusion is conditioned on, and captions of the CLIP score.

References:
    Radford et al. 2021, arXiv 2103.00020, §2.4; Rombach et al. 2022, arXiv 2112.10752.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.types import Array
from memjax.models.clip.layers import Embedding, check_tower, layer_norm, run_layers
from memjax.models.unet.layers import Dense

ARGMAX_EOS = 2


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """The hashable recipe of a text tower; the defaults are Stable Diffusion 1 (ViT-L/14).

    Attributes:
        vocab_size: Rows of the token table.
        hidden_size: Width of a token.
        intermediate_size: Hidden width of the two-layer networks.
        num_layers: Encoder layers.
        num_heads: Attention heads.
        max_length: Most tokens of a text, and rows of the position table.
        hidden_act: ``quick_gelu`` (OpenAI, Stable Diffusion 1) or ``gelu`` (Stable Diffusion 2).
        norm_eps: ε of the norms.
        eos_token_id: Where a text is pooled: at its first such token. 2 stands for the largest id
            of a text, whatever it is: configurations written before transformers 4.31 say so.
        projection_dim: Width of the projection that texts and images share, or None without one.
        dtype: Compute dtype by name; parameters and norm statistics stay float32.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    max_length: int = 77
    hidden_act: str = "quick_gelu"
    norm_eps: float = 1e-5
    eos_token_id: int = 49407
    projection_dim: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_tower(self)


class TextFeatures(NamedTuple):
    """What a text becomes, float32.

    Attributes:
        hidden: Every token after the final norm: the condition of Stable Diffusion.
        pooled: The token at the end of the text, see :attr:`CLIPTextConfig.eos_token_id`.
        projected: ``pooled`` in the space that texts and images share, not normalized, or None.
    """

    hidden: Float[Array, "b l d"]
    pooled: Float[Array, "b d"]
    projected: Float[Array, "b p"] | None


class CLIPText(nn.Module):
    """The text tower: a transformer whose tokens see only those before them."""

    config: CLIPTextConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"]) -> TextFeatures:
        """Encodes token ids in ``[0, vocab_size)``; padding needs no mask, it comes last.

        Raises:
            ValueError: Texts are longer than :attr:`CLIPTextConfig.max_length`.
        """
        c, length = self.config, ids.shape[1]
        if length > c.max_length:
            raise ValueError(
                f"texts have {length} tokens, expected at most {c.max_length}: cut them."
            )
        tokens = Embedding(c.vocab_size, c.hidden_size, name="embeddings.token_embedding")(ids)
        places = Embedding(c.max_length, c.hidden_size, name="embeddings.position_embedding")()
        x = (tokens + places[None, :length]).astype(c.dtype)
        x = layer_norm(c, "final_layer_norm")(run_layers(c, x, causal=True))
        pooled = x[jnp.arange(len(x)), self.end_of_text(ids)]
        projected = None
        if c.projection_dim is not None:
            project = Dense(c.projection_dim, False, jnp.dtype(c.dtype), name="text_projection")
            projected = project(pooled).astype(jnp.float32)
        return TextFeatures(x.astype(jnp.float32), pooled.astype(jnp.float32), projected)

    def end_of_text(self, ids: Int[Array, "b l"]) -> Int[Array, " b"]:
        """Returns the place of each text's end token (the first place where there is none)."""
        if self.config.eos_token_id == ARGMAX_EOS:
            return jnp.argmax(ids, axis=1)
        return jnp.argmax(ids == self.config.eos_token_id, axis=1)

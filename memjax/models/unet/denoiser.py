"""A U-Net with its label encoder: what memjax trains on labeled images."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from memjax.core.types import Array, Params, TokenCond
from memjax.models.initial import draw_params
from memjax.models.unet.conditioning import LabelTokens
from memjax.models.unet.network import UNet, UNetConfig


class Denoiser(nn.Module):
    """Label rows → tokens → U-Net.

    Attributes:
        unet: The network's recipe; its ``cross_attention_dim`` is the token width.
        label_sizes: Number of ids of each label slot, null included.
        image_size: Height and width of the images; refused here if the levels cannot halve it.
        label_tables: Which slots share embeddings, see :class:`LabelTokens`; empty: none.

    ``encode`` and ``denoise`` are the two halves, for adapters, training and mitigation.
    """

    unet: UNetConfig
    label_sizes: tuple[int, ...]
    image_size: int
    label_tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.unet.validate(self.image_size)
        self.label_sizes = tuple(self.label_sizes)
        self.label_tables = tuple(self.label_tables)
        if not self.label_sizes:
            raise ValueError("label_sizes is empty, expected the number of ids of each slot.")
        super().__post_init__()

    def setup(self) -> None:
        self.tokens = LabelTokens(
            self.label_sizes, self.unet.cross_attention_dim, self.label_tables
        )
        self.net = UNet(self.unet)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        labels: Int[Array, "b slots"],
    ) -> Float[Array, "b h w c_out"]:
        return self.net(x, t, self.tokens(labels))

    def encode(self, labels: Int[Array, "b slots"]) -> TokenCond:
        """Label rows → condition."""
        return self.tokens(labels)

    def denoise(
        self, x: Float[Array, "b h w c"], t: Int[Array, " b"], cond: TokenCond
    ) -> Float[Array, "b h w c_out"]:
        """Predicts under a ready condition."""
        return self.net(x, t, cond)

    @property
    def num_cross_attentions(self) -> int:
        return self.unet.num_cross_attentions

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Shape of one state, without batch axis."""
        return (self.image_size, self.image_size, self.unet.in_channels)

    def init_params(self, key: Array) -> Params:
        """Returns freshly drawn parameters (the 'params' tree itself)."""
        x = jnp.zeros((1, *self.sample_shape), jnp.float32)
        labels = jnp.zeros((1, len(self.label_sizes)), jnp.int32)
        zero = ("conv_residual", *(("conv_out",) if self.unet.zero_init_out else ()))
        return draw_params(self, key, x, jnp.zeros((1,), jnp.int32), labels, zero=zero)

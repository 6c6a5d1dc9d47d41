"""A ``UNetConfig`` as diffusers' PyTorch network, evaluated on our NHWC inputs."""

import diffusers
import jax.numpy as jnp
import numpy as np
import torch

from memjax.core.types import TokenCond
from memjax.models.unet.layers import space_to_depth
from memjax.models.unet.network import UNetConfig


def diffusers_unet(config: UNetConfig, linear: bool = False) -> diffusers.UNet2DConditionModel:
    """Builds the network; ``linear`` is Stable Diffusion 2's projection around the transformer."""
    kinds = ["CrossAttn" if attends else "" for attends in config.attention_blocks]
    area = config.patch_size**2
    extra = {}
    if config.pooled_condition:
        extra["class_embed_type"] = "projection"
        extra["projection_class_embeddings_input_dim"] = config.cross_attention_dim
    return diffusers.UNet2DConditionModel(
        in_channels=config.in_channels * area,
        out_channels=config.out_channels * area,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        mid_block_type="UNetMidBlock2DCrossAttn" if config.mid_attention else "UNetMidBlock2D",
        attention_head_dim=config.num_heads,
        transformer_layers_per_block=config.transformer_layers,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        use_linear_projection=linear,
        **extra,
    ).eval()


def run_torch(
    net: diffusers.UNet2DConditionModel,
    config: UNetConfig,
    x: np.ndarray,
    t: np.ndarray,
    cond: TokenCond,
) -> torch.Tensor:
    """Returns the prediction, NCHW with patches still folded; they are folded outside the net."""
    folded = np.asarray(space_to_depth(jnp.asarray(x), config.patch_size))
    options = {"encoder_attention_mask": torch.tensor(cond.mask)}
    if config.pooled_condition:
        weight = cond.mask[:, :, None].astype(np.float32)
        options["class_labels"] = torch.tensor((cond.embeddings * weight).sum(1) / weight.sum(1))
    images = torch.tensor(folded).permute(0, 3, 1, 2)
    return net(images, torch.tensor(t), torch.tensor(cond.embeddings), **options).sample

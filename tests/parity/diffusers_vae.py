"""A ``VAEConfig`` as diffusers' PyTorch network."""

import diffusers
import torch

from memjax.models.vae import VAEConfig


def diffusers_vae(config: VAEConfig) -> diffusers.AutoencoderKL:
    levels = len(config.block_out_channels)
    return diffusers.AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        scaling_factor=config.scaling_factor,
        use_quant_conv=config.use_quant_conv,
        use_post_quant_conv=config.use_post_quant_conv,
        mid_block_add_attention=config.mid_attention,
    ).eval()


def shaken(net: torch.nn.Module, seed: int, size: float = 0.1) -> torch.nn.Module:
    """Adds noise to every vector of a fresh network: its biases and norms become distinct."""
    torch.manual_seed(seed)
    for value in net.state_dict().values():
        if value.ndim == 1 and value.is_floating_point():
            value.add_(size * torch.randn_like(value))
    return net.eval()

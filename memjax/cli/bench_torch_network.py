"""The demo's network in torch, of diffusers' parts, for ``memjax bench``.

Torch and diffusers are imported on demand: memjax itself never needs them.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np

from memjax.tools.bench.task import Task

INSTALL = "pip install 'memjax[parity]'"


def torch_missing() -> str:
    """Returns why the torch side cannot run and what to install, or an empty string."""
    for name in ("torch", "diffusers"):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            return (
                f"{name} cannot be imported ({str(error).splitlines()[0]}), so memjax is measured "
                f"alone; for the comparison: {INSTALL}"
            )
    return ""


def diffusers_unet(config: Any) -> Any:
    """Returns diffusers' ``UNet2DConditionModel`` of the same recipe, patches folded outside.

    Args:
        config: A ``UNetConfig``, or its fields by attribute.
    """
    diffusers = importlib.import_module("diffusers")
    kinds = ["CrossAttn" if attends else "" for attends in config.attention_blocks]
    area = config.patch_size**2
    pooled = {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": config.cross_attention_dim,
    }
    return diffusers.UNet2DConditionModel(
        in_channels=config.in_channels * area,
        out_channels=config.out_channels * area,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        mid_block_type="UNetMidBlock2DCrossAttn" if config.mid_attention else "UNetMidBlock2D",
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=config.num_heads,
        transformer_layers_per_block=config.transformer_layers,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        **(pooled if config.pooled_condition else {}),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TorchNetwork:
    """Label table, U-Net and patch folding in torch, NCHW.

    Attributes:
        modules: ``unet`` and ``tokens`` (table, bos, position), as one torch module.
        offsets: First row of each label slot in the table.
        config: The U-Net's recipe.
    """

    modules: Any
    offsets: Any
    config: Any

    def encode(self, labels):
        """Label ids ``[b, slots]`` → tokens ``[b, 1 + slots, dim]``."""
        torch, tokens = importlib.import_module("torch"), self.modules["tokens"]
        rows = torch.nn.functional.embedding(labels + self.offsets, tokens["table"])
        start = tokens["bos"].expand(len(labels), 1, -1)
        return torch.cat([start, rows], dim=1) + tokens["position"]

    def predict(self, x, t, tokens):
        """The raw prediction for ``x`` of shape ``[b, c, h, w]``."""
        functional = importlib.import_module("torch").nn.functional
        pooled = {"class_labels": tokens.mean(dim=1)} if self.config.pooled_condition else {}
        folded = functional.pixel_unshuffle(x, self.config.patch_size)
        output = self.modules["unet"](folded, t, tokens, **pooled).sample
        return functional.pixel_shuffle(output, self.config.patch_size)


def make_torch_network(task: Task) -> TorchNetwork:
    """Draws the torch network of a task."""
    torch = importlib.import_module("torch")
    torch.manual_seed(task.config["seed"])
    dim, sizes = task.unet.cross_attention_dim, task.label_sizes
    tokens = {
        "table": torch.randn(sum(sizes), dim),
        "bos": torch.randn(1, dim),
        "position": 0.02 * torch.randn(len(sizes) + 1, dim),
    }
    parts = {
        "unet": diffusers_unet(task.unet),
        "tokens": torch.nn.ParameterDict(
            {name: torch.nn.Parameter(value) for name, value in tokens.items()}
        ),
    }
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)[:-1]]))
    return TorchNetwork(torch.nn.ModuleDict(parts), offsets, task.unet)

"""The torch side of ``memjax bench``: plain eager loops around a network of diffusers' parts.

Torch and diffusers are imported on demand: memjax itself never needs them.
"""

import dataclasses
import importlib
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from memjax.tools.bench.task import Task
from memjax.tools.bench.worker import peak_host_bytes

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


class TorchSide:
    """Trains, samples, detects and mitigates in torch as careful users and the official code do.

    Training: fused AdamW, ``clip_grad_norm_``, ``AveragedModel``. Sampling: DDIM without gradient,
    both halves of the guidance in one batch. Detection and mitigation: one prompt at a time, both
    halves in one batch of ``2n`` at every evaluation.

    Args:
        task: What to do.
        threads: Threads for torch.

    References:
        Wen et al., ICLR 2024, Eq. 3 and 5 (the loops follow the paper's official code in what they
        evaluate).
    """

    def __init__(self, task: Task, threads: int) -> None:
        torch = self._torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        self.task, self.network = task, make_torch_network(task)
        self.parameters = list(self.network.modules.parameters())
        self.num_parameters = sum(p.numel() for p in self.parameters)
        self._signals = torch.from_numpy(task.signals)
        self._sigmas = torch.from_numpy(task.sigmas)
        self._images = self._nchw(task.images)
        self._x_T = self._nchw(task.initial_noise)
        self._labels = torch.from_numpy(task.labels.astype(np.int64))
        self._prompts = torch.from_numpy(task.prompts.astype(np.int64))

    def prepare(self, case: str) -> None:
        """Makes what a case needs besides the network, outside its time."""
        if case == "train":
            _ = self._training

    @cached_property
    def _training(self) -> tuple[Any, Any]:
        """The optimizer and the moving average of the weights."""
        torch, train = self._torch, self.task.config["train"]
        averaging = torch.optim.swa_utils
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=train["learning_rate"],
            weight_decay=train["weight_decay"],
            fused=True,
        )
        average = averaging.get_ema_multi_avg_fn(train["ema_decay"])
        return optimizer, averaging.AveragedModel(self.network.modules, multi_avg_fn=average)

    def _nchw(self, images: np.ndarray):
        return self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def _scales(self, t):
        return self._signals[t][:, None, None, None], self._sigmas[t][:, None, None, None]

    def loss(self, x0, t, noise, labels):
        """The mean squared error of the prediction at the given noise."""
        signal, sigma = self._scales(t)
        is_eps = self.task.config["diffusion"]["prediction"] == "eps"
        target = noise if is_eps else signal * noise - sigma * x0
        x_t = signal * x0 + sigma * noise
        output = self.network.predict(x_t, t, self.network.encode(labels))
        return self._torch.nn.functional.mse_loss(output, target)

    def train(self) -> float:
        """Runs the training steps of one repeat; returns the last loss."""
        torch, config = self._torch, self.task.config["train"]
        optimizer, average = self._training
        self.network.modules.requires_grad_(True).train()
        for _ in range(self.task.settings.steps):
            t = torch.randint(len(self._sigmas), (len(self._images),))
            noise = torch.randn_like(self._images)
            keep = torch.rand(len(self._labels), 1) >= config["cond_dropout"]
            loss = self.loss(self._images, t, noise, self._labels * keep)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config["clip_norm"] is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, config["clip_norm"])
            optimizer.step()
            average.update_parameters(self.network.modules)
        return loss.item()

    def _halves(self, x, t: int, tokens, null):
        """Returns ``(ε_u, ε_c)`` at one timestep: both halves in one batch."""
        torch, n = self._torch, len(x)
        steps = torch.full((2 * n,), t)
        both = torch.cat([null.expand(n, -1, -1), tokens.expand(n, -1, -1)])
        x = torch.cat([x, x])
        eps = self.network.predict(x, steps, both)
        if self.task.config["diffusion"]["prediction"] == "v":
            signal, sigma = self._scales(steps)
            eps = signal * eps + sigma * x
        return eps.chunk(2)

    def _magnitudes(self, tokens, null):
        """``‖ε_c − ε_u‖`` of each generation."""
        uncond, cond = self._halves(self._x_T, self.task.first_t, tokens, null)
        return (cond - uncond).flatten(1).norm(dim=1)

    def _tokens(self, count: int):
        self.network.modules.requires_grad_(False).eval()
        prompts = self._prompts[:count]
        tokens = self.network.encode(self._torch.cat([prompts[:1] * 0, prompts]))
        return tokens[:1], tokens[1:]

    def sample(self) -> Float[np.ndarray, "s h w c"]:
        """Returns guided samples, one a prompt: DDIM over the grid.

        References:
            Song et al. 2021, arXiv 2010.02502, Eq. 12; Ho and Salimans 2022, arXiv 2207.12598.
        """
        torch, chosen = self._torch, self.task.config["sampling"]
        scale, most = chosen["guidance_scale"], chosen["clip_x0"]
        with torch.inference_mode():
            null, tokens = self._tokens(self.task.settings.samples)
            x = self._nchw(self.task.sample_noise)
            ends = [*self.task.grid[1:].tolist(), None]
            for t, end in zip(self.task.grid.tolist(), ends, strict=True):
                uncond, cond = self._halves(x, t, tokens, null)
                eps = uncond + scale * (cond - uncond)
                signal, sigma = self._signals[t], self._sigmas[t]
                x0 = (x - sigma * eps) / signal
                if most is not None:
                    x0 = x0.clamp(-most, most)
                    eps = (x - signal * x0) / sigma
                x = x0 if end is None else self._signals[end] * x0 + self._sigmas[end] * eps
        return x.permute(0, 2, 3, 1).numpy()

    def detect(self) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt and generation."""
        with self._torch.no_grad():
            null, prompts = self._tokens(self.task.settings.prompts)
            found = [self._magnitudes(tokens, null) for tokens in prompts.split(1)]
        return self._torch.stack(found).numpy()

    def _mitigate_one(self, tokens, null):
        torch = self._torch
        embedding = tokens.clone().requires_grad_(True)
        optimizer = torch.optim.AdamW([embedding], lr=self.task.embedding_rate, weight_decay=0.0)
        for _ in range(self.task.iterations):
            loss = self._magnitudes(embedding, null).mean()
            (gradient,) = torch.autograd.grad(loss, [embedding])
            gradient[:, 0] = 0.0  # BOS stays
            embedding.grad = gradient
            optimizer.step()
        return embedding.detach()

    def mitigate(self) -> Float[np.ndarray, "p l d"]:
        """Optimises the embeddings, one prompt after the other, at the first step."""
        null, prompts = self._tokens(self.task.settings.mitigate_prompts)
        return self._torch.cat([self._mitigate_one(p, null) for p in prompts.split(1)]).numpy()

    def facts(self) -> dict[str, Any]:
        """Returns what belongs next to the figures: parameters, and the most memory so far."""
        return {"parameters": self.num_parameters, "peak_bytes": peak_host_bytes()}

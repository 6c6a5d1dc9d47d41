"""The torch side of ``memjax bench --what=sd``: diffusers' U-Net in loops like the official ones.

References:
    Wen et al., ICLR 2024, Eq. 3 and 5 (both halves of the guidance in one batch of 2n at every
    evaluation, one prompt at a time).
"""

import importlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from memjax.interop.layout import foreign_name
from memjax.tools.bench.stable_diffusion.task import (
    FIRST_T,
    LEARNING_RATE,
    SdSettings,
    draw,
    make_inputs,
    rates,
    template,
)
from memjax.tools.bench.torch_side import diffusers_unet
from memjax.tools.bench.worker import peak_host_bytes


class SdTorchSide:
    """Predicts, detects and mitigates in torch.

    Args:
        settings: What to do.
        threads: Threads for torch on CPU.
        device: ``cpu`` or ``cuda``.
        compiled: Run the network through ``torch.compile``.
    """

    def __init__(
        self, settings: SdSettings, threads: int, device: str = "cpu", compiled: bool = False
    ) -> None:
        torch = self._torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        self.settings, self.device = settings, device
        self.dtype = getattr(torch, settings.dtype)
        network = diffusers_unet(settings.config).eval().requires_grad_(False)
        load_drawn(network, settings)
        self.network = network.to(device)
        if settings.dtype != "float32":
            self.network = network.to(self.dtype)
        self.num_parameters = sum(p.numel() for p in network.parameters())
        self._predict = _compiled(self.network) if compiled else self.network
        inputs = make_inputs(settings)
        noise = np.ascontiguousarray(inputs.noise.transpose(0, 3, 1, 2))
        self._noise, self._prompts, self._null = (
            torch.from_numpy(a).to(device, self.dtype) for a in (noise, inputs.prompts, inputs.null)
        )

    def _halves(self, tokens: Any, noise: Any) -> Any:
        """Returns ``(ε_u, ε_c)`` in float32: one call for both halves."""
        torch, n = self._torch, len(noise)
        t = torch.full((2 * n,), FIRST_T, device=self.device)
        both = torch.cat([self._null.expand(n, -1, -1), tokens.expand(n, -1, -1)])
        return self._predict(torch.cat([noise, noise]), t, both).sample.float().chunk(2)

    def warm(self, case: str) -> None:
        """Runs one evaluation of a case, with its gradient for the mitigation."""
        if case == "mitigate":
            self._iterate(1)
        else:
            self.forward(self.settings.generations if case == "detect" else None)

    def pairs_per_second(self, candidates: tuple[int, ...], repeats: int) -> dict[int, float]:
        """Returns the rate of the forward for each number of pairs that fits into memory."""
        return rates(self.forward, candidates, repeats)

    def forward(self, pairs: int | None = None) -> Float[np.ndarray, "two b h w c"]:
        """Returns ``(ε_u, ε_c)`` of the first prompt."""
        with self._torch.no_grad():
            noise = self._noise[: pairs or self.settings.pairs]
            halves = self._halves(self._prompts[:1], noise)
        return self._torch.stack(halves).permute(0, 1, 3, 4, 2).cpu().numpy()

    def _magnitudes(self, tokens: Any) -> Any:
        noise = self._noise[: self.settings.generations]
        uncond, cond = self._halves(tokens, noise)
        return (cond - uncond).flatten(1).norm(dim=1)

    def detect(self) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt and generation."""
        with self._torch.no_grad():
            found = [self._magnitudes(tokens) for tokens in self._prompts.split(1)]
        return self._torch.stack(found).cpu().numpy()

    def mitigate(self) -> Float[np.ndarray, "1 l d"]:
        """Optimises the first prompt's embedding at the first step; returns it."""
        return self._iterate(self.settings.iterations)

    def _iterate(self, iterations: int) -> Float[np.ndarray, "1 l d"]:
        torch = self._torch
        embedding = self._prompts[:1].float().clone().requires_grad_(True)
        optimizer = torch.optim.AdamW([embedding], lr=LEARNING_RATE, weight_decay=0.0)
        for _ in range(iterations):
            loss = self._magnitudes(embedding.to(self.dtype)).mean()
            (gradient,) = torch.autograd.grad(loss, [embedding])
            gradient[:, 0] = 0.0  # BOS stays
            embedding.grad = gradient
            optimizer.step()
        return embedding.detach().cpu().numpy()

    def facts(self) -> dict[str, Any]:
        """Returns what belongs next to the figures: parameters, and the most memory so far."""
        cuda = self.device == "cuda"
        peak = self._torch.cuda.max_memory_allocated() if cuda else peak_host_bytes()
        return {"parameters": self.num_parameters, "platform": self.device, "peak_bytes": peak}


def _compiled(network: Any) -> Any:
    """Compiles anew for every batch, as often as it takes, with and without gradient."""
    importlib.import_module("torch._dynamo").config.recompile_limit = 64
    return importlib.import_module("torch").compile(network, dynamic=False)


def load_drawn(network: Any, settings: SdSettings) -> None:
    """Copies the drawn weights into diffusers' network, leaf by leaf.

    Raises:
        ValueError: A parameter of either network has no counterpart.
    """
    torch = importlib.import_module("torch")
    left = dict(network.named_parameters())
    for path, leaf in jax.tree_util.tree_leaves_with_path(template(settings)):
        names = tuple(str(entry.key) for entry in path)
        target = left.pop(foreign_name(names), None)
        if target is None:
            raise ValueError(
                f"diffusers' network has no {foreign_name(names)}, expected the parameters of "
                f"{settings.size}; memjax bench needs the diffusers version of memjax[parity]."
            )
        weight = draw(settings, names, leaf.shape)
        order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[weight.ndim]
        with torch.no_grad():
            stored = np.ascontiguousarray(weight.transpose(order)).reshape(target.shape)
            target.copy_(torch.from_numpy(stored))
    if left:
        raise ValueError(f"memjax's network lacks {sorted(left)[:3]}, expected equal networks.")

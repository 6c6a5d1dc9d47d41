"""The torch side of ``memjax bench``: plain eager loops around diffusers' U-Net."""

import importlib

import numpy as np
from jaxtyping import Float

from memjax.cli.bench_torch_network import make_torch_network
from memjax.cli.bench_workload import Workload


class TorchSide:
    """Trains, detects and mitigates in torch as the usual scripts and the official code do.

    Training: fused AdamW, ``clip_grad_norm_``, ``AveragedModel``. Detection and mitigation: one
    prompt at a time, both halves of the guidance in one batch of ``2n`` at every evaluation.

    Args:
        work: What to do.
        threads: Threads for torch.

    References:
        Wen et al., ICLR 2024, Eq. 3 and 5 (the loops follow the paper's official code in what they
        evaluate).
    """

    def __init__(self, work: Workload, threads: int) -> None:
        torch = self._torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        self.work, self.network = work, make_torch_network(work)
        self.parameters = list(self.network.modules.parameters())
        self.num_parameters = sum(p.numel() for p in self.parameters)
        train, averaging = work.config["train"], torch.optim.swa_utils
        self._optimizer = torch.optim.AdamW(
            self.parameters,
            lr=train["learning_rate"],
            weight_decay=train["weight_decay"],
            fused=True,
        )
        self._ema = averaging.AveragedModel(
            self.network.modules, multi_avg_fn=averaging.get_ema_multi_avg_fn(train["ema_decay"])
        )
        self._signals = torch.from_numpy(np.array(work.network.schedule.sqrt_alphas_bar))
        self._sigmas = torch.from_numpy(np.array(work.network.schedule.sigmas))
        self._images = self._nchw(work.images)
        self._x_T = self._nchw(work.initial_noise)
        self._labels = torch.from_numpy(work.labels.astype(np.int64))
        self._prompts = torch.from_numpy(work.prompts.astype(np.int64))

    def _nchw(self, images: np.ndarray):
        return self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def _scales(self, t):
        return self._signals[t][:, None, None, None], self._sigmas[t][:, None, None, None]

    def loss(self, x0, t, noise, labels):
        """The mean squared error of the prediction at the given noise."""
        signal, sigma = self._scales(t)
        is_eps = self.work.config["diffusion"]["prediction"] == "eps"
        target = noise if is_eps else signal * noise - sigma * x0
        x_t = signal * x0 + sigma * noise
        output = self.network.predict(x_t, t, self.network.encode(labels))
        return self._torch.nn.functional.mse_loss(output, target)

    def train(self) -> float:
        """Runs the training steps of one repeat; returns the last loss."""
        torch, config = self._torch, self.work.config["train"]
        self.network.modules.requires_grad_(True).train()
        for _ in range(self.work.settings.steps):
            t = torch.randint(len(self._sigmas), (len(self._images),))
            noise = torch.randn_like(self._images)
            keep = torch.rand(len(self._labels), 1) >= config["cond_dropout"]
            loss = self.loss(self._images, t, noise, self._labels * keep)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config["clip_norm"] is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, config["clip_norm"])
            self._optimizer.step()
            self._ema.update_parameters(self.network.modules)
        return loss.item()

    def _magnitudes(self, tokens, null):
        """``‖ε_c − ε_u‖`` of each generation, both halves in one batch."""
        torch, n = self._torch, len(self._x_T)
        t = torch.full((2 * n,), self.work.first_t)
        both = torch.cat([null.expand(n, -1, -1), tokens.expand(n, -1, -1)])
        x = torch.cat([self._x_T, self._x_T])
        eps = self.network.predict(x, t, both)
        if self.work.config["diffusion"]["prediction"] == "v":
            signal, sigma = self._scales(t)
            eps = signal * eps + sigma * x
        uncond, cond = eps.chunk(2)
        return (cond - uncond).flatten(1).norm(dim=1)

    def _tokens(self, count: int):
        self.network.modules.requires_grad_(False).eval()
        prompts = self._prompts[:count]
        tokens = self.network.encode(self._torch.cat([prompts[:1] * 0, prompts]))
        return tokens[:1], tokens[1:].split(1)

    def detect(self) -> Float[np.ndarray, "p g"]:
        """Returns the first-step magnitude of every prompt and generation."""
        with self._torch.no_grad():
            null, prompts = self._tokens(self.work.settings.prompts)
            found = [self._magnitudes(tokens, null) for tokens in prompts]
        return self._torch.stack(found).numpy()

    def _mitigate_one(self, tokens, null):
        torch = self._torch
        embedding = tokens.clone().requires_grad_(True)
        optimizer = torch.optim.AdamW([embedding], lr=self.work.embedding_rate, weight_decay=0.0)
        for _ in range(self.work.iterations):
            loss = self._magnitudes(embedding, null).mean()
            (gradient,) = torch.autograd.grad(loss, [embedding])
            gradient[:, 0] = 0.0  # BOS stays
            embedding.grad = gradient
            optimizer.step()
        return embedding.detach()

    def mitigate(self) -> Float[np.ndarray, "p l d"]:
        """Optimises the embeddings, one prompt after the other, at the first step."""
        null, prompts = self._tokens(self.work.settings.mitigate_prompts)
        return self._torch.cat([self._mitigate_one(p, null) for p in prompts]).numpy()

"""Stable Diffusion 1.4's networks at full size against diffusers and transformers, on CPU.

``python -m tests.parity.full_size [unet] [vae] [text_encoder]``: random weights, float32, a batch
of two latents of 64 × 64 (one for the autoencoder). Prints the largest difference relative to the
root mean square of torch's output, and what it took. The U-Net needs 5 GiB of memory, so pytest
does not collect it.
"""

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import traverse_util

from memjax.core.types import TokenCond
from memjax.models.clip.text import CLIPText, CLIPTextConfig
from memjax.models.unet.network import UNet, UNetConfig
from memjax.models.vae import AutoencoderKL, VAEConfig
from tests.parity.diffusers_unet import diffusers_unet
from tests.parity.diffusers_vae import diffusers_vae
from tests.parity.torch_clip import text_settings
from tests.parity.torch_weights import flax_layout, torch_name

Case = tuple[torch.nn.Module, Callable[[Any], dict], Any, tuple, dict[str, str]]


def noise(*shape: int) -> np.ndarray:
    return np.random.RandomState(len(shape)).standard_normal(shape).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def text_name(path: tuple[str, ...]) -> str:
    return ".".join([*path[:-1], "bias" if path[-1] == "bias" else "weight"])


def moved(net: torch.nn.Module, template: dict, name: Callable) -> dict:
    """Moves the weights over one by one: a tensor is freed before the next is copied."""
    state, filled = {key: value.data for key, value in net.named_parameters()}, {}
    for parameter in net.parameters():
        parameter.data = torch.empty(0)
    for path, leaf in traverse_util.flatten_dict(template).items():
        weight = state.pop(name(path)).numpy()
        ours = weight if path[-1] == "embedding" else flax_layout(weight, leaf.ndim)
        filled[path] = jax.block_until_ready(jnp.array(np.ascontiguousarray(ours)))
        del weight, ours
    assert not state, sorted(state)[:5]
    gc.collect()
    return traverse_util.unflatten_dict(filled)


def unet() -> Iterator[Any]:
    config = UNetConfig()
    net = diffusers_unet(config)
    x, t, tokens = noise(2, 64, 64, 4), np.array([981, 261], np.int32), noise(2, 77, 768)
    yield net
    yield nhwc(net(nchw(x), torch.tensor(t), encoder_hidden_states=torch.tensor(tokens)).sample)
    inputs = (x, t, TokenCond(tokens, np.ones((2, 77), bool)))
    yield UNet(config), inputs, None, torch_name


def vae() -> Iterator[Any]:
    config, z = VAEConfig(), noise(1, 64, 64, 4) / 0.18215
    net = diffusers_vae(config)
    yield net
    yield nhwc(net.decode(nchw(z)).sample)
    yield AutoencoderKL(config), (z,), "decode", torch_name


def text_encoder() -> Iterator[Any]:
    config = CLIPTextConfig()
    net = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_settings(config))).eval()
    ids = np.random.RandomState(0).randint(0, 49406, (2, 77)).astype(np.int32)
    ids[:, -1] = 49407
    yield net
    yield net(torch.tensor(ids).long()).last_hidden_state.numpy()
    yield CLIPText(config), (ids,), None, text_name


PARTS = {"unet": unet, "vae": vae, "text_encoder": text_encoder}


@torch.no_grad()
def compare(part: str) -> str:
    """Returns one line about one network."""
    torch.manual_seed(0)
    stages = PARTS[part]()
    net = next(stages)
    start = time.perf_counter()
    expected = next(stages)
    theirs = time.perf_counter() - start
    module, inputs, method, name = next(stages)
    example = inputs
    if method is not None:
        example = (np.zeros((1, 64, 64, 3), np.float32),)
    template = jax.eval_shape(module.init, jax.random.key(0), *example)["params"]
    params = moved(net, template, name)
    run = jax.jit(lambda p, *args: module.apply({"params": p}, *args, method=method))
    compiled = run.lower(params, *inputs).compile()
    start = time.perf_counter()
    actual = jax.block_until_ready(compiled(params, *inputs))
    ours = time.perf_counter() - start
    actual = np.asarray(actual.hidden if part == "text_encoder" else actual)
    rms = np.sqrt(np.mean(expected**2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (
        f"{part}: {count:,} parameters, output {expected.shape} of RMS {rms:.3g}; largest "
        f"difference {np.abs(actual - expected).max() / rms:.2e} of it, RMS of the difference "
        f"{np.sqrt(np.mean((actual - expected) ** 2)) / rms:.2e}; torch {theirs:.1f} s, memjax "
        f"{ours:.1f} s, peak memory {peak:.1f} GiB"
    )


def main(parts: list[str]) -> None:
    versions = f"diffusers {diffusers.__version__}, torch {torch.__version__}"
    print(f"{versions}, jax {jax.__version__}")  # noqa: T201
    for part in parts or list(PARTS):
        print(compare(part))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])

"""What ``memjax bench --what=sd`` gives every side to do: one network, its weights, its inputs."""

from __future__ import annotations

import dataclasses
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from memjax.tools.bench.timing import Case

if TYPE_CHECKING:
    from memjax.models.unet.network import UNetConfig

SD_CASES = {
    "forward": Case("guided pair", "s/pair", False),
    "detect": Case("first-step detection", "s/prompt", False),
    "mitigate": Case("mitigation of a prompt", "s/prompt", False),
}
FIRST_T = 981  # 50 steps, leading spacing, offset 1
LEARNING_RATE = 0.05
_NUMBERS = 2**20 + 7


class Size(NamedTuple):
    """A network and the shape of its inputs.

    Attributes:
        changes: Fields of the network's recipe that are not its defaults.
        side: Height and width of a latent.
        tokens: Tokens of a prompt.
    """

    changes: Mapping[str, Any]
    side: int
    tokens: int

    @property
    def unet(self) -> UNetConfig:
        """The network's recipe; without it nothing here needs jax."""
        from memjax.models.unet.network import UNetConfig

        return UNetConfig(**self.changes)


SIZES = {
    "sd14": Size({"zero_init_out": False}, 64, 77),
    "tiny": Size(
        {
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "attention_blocks": (True, False),
            "num_heads": 2,
            "cross_attention_dim": 12,
            "norm_num_groups": 4,
            "zero_init_out": False,
        },
        8,
        5,
    ),
}


class SdSettings(NamedTuple):
    """How much is measured, and in what.

    Attributes:
        size: Name in :data:`SIZES`.
        only: Names of the cases, in order.
        repeats: Timed repeats of the forward a side.
        long_repeats: Timed repeats of the other cases, of many forwards each.
        prompts: Prompts of the detection.
        generations: Initial noises a prompt, in detection and mitigation.
        iterations: Updates of the embedding in the mitigation of one prompt.
        chunk: Prompts a call of memjax's detection.
        dtype: ``float32`` or ``bfloat16`` compute.
        pairs: Guided pairs a call of the forward.
        seed: Of weights and inputs.
    """

    size: str = "sd14"
    only: tuple[str, ...] = tuple(SD_CASES)
    repeats: int = 5
    long_repeats: int = 1
    prompts: int = 8
    generations: int = 1
    iterations: int = 10
    chunk: int = 2
    dtype: str = "float32"
    pairs: int = 1
    seed: int = 0

    @property
    def config(self) -> UNetConfig:
        """The network's recipe in the compute dtype."""
        return dataclasses.replace(SIZES[self.size].unet, dtype=self.dtype)


class SdInputs(NamedTuple):
    """The same inputs for every side.

    Attributes:
        noise: Initial noises.
        prompts: Embeddings of the prompts.
        null: Embedding of the empty prompt.
    """

    noise: Float[np.ndarray, "g h w c"]
    prompts: Float[np.ndarray, "p l d"]
    null: Float[np.ndarray, "1 l d"]


def make_inputs(settings: SdSettings) -> SdInputs:
    """Draws noises and embeddings; their values do not matter for the speed."""
    size, rng = SIZES[settings.size], np.random.default_rng(settings.seed)
    rows = max(settings.generations, settings.pairs)
    noise = rng.standard_normal((rows, size.side, size.side, size.unet.in_channels), np.float32)
    shape = (settings.prompts + 1, size.tokens, size.unet.cross_attention_dim)
    embeddings = rng.standard_normal(shape, np.float32)
    return SdInputs(noise, embeddings[1:], embeddings[:1])


def template(settings: SdSettings) -> Any:
    """Returns the network's parameter tree of shapes."""
    import jax
    import jax.numpy as jnp

    from memjax.core.types import TokenCond
    from memjax.models.unet.network import UNet

    size = SIZES[settings.size]
    x = jax.ShapeDtypeStruct((1, size.side, size.side, size.unet.in_channels), jnp.float32)
    tokens = (1, size.tokens, size.unet.cross_attention_dim)
    cond = TokenCond(
        jax.ShapeDtypeStruct(tokens, jnp.float32), jax.ShapeDtypeStruct(tokens[:2], jnp.bool_)
    )
    t, key = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.eval_shape(UNet(settings.config).init, key, x, t, cond)["params"]


def draw(settings: SdSettings, names: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Returns one leaf of the weights: the same on every side, and drawn in no time.

    All leaves are cut from one vector of normal numbers, each from a place of its own.

    Args:
        settings: For the seed.
        names: The leaf's path.
        shape: Its shape in the parameter tree.
    """
    from memjax.models.initial import moments

    mean, stddev = moments(names[-1], shape)
    if stddev == 0.0:
        return np.full(shape, mean, np.float32)
    numbers = np.random.default_rng(settings.seed).standard_normal(_NUMBERS, np.float32)
    start = zlib.crc32("/".join(names).encode()) % _NUMBERS
    values = np.resize(np.roll(numbers, -start), shape)
    return (mean + stddev * values).astype(np.float32)


def rates(
    forward: Callable[[int], Any], candidates: tuple[int, ...], repeats: int
) -> dict[int, float]:
    """Returns pairs a second for each number of pairs, up to the first that does not fit."""
    found: dict[int, float] = {}
    for pairs in candidates:
        try:
            forward(pairs)
            seconds = []
            for _ in range(repeats):
                began = time.perf_counter()
                forward(pairs)
                seconds.append(time.perf_counter() - began)
        except RuntimeError as error:  # out of device memory
            if not found:
                raise ValueError(f"one pair does not run: {error}") from error
            break
        found[pairs] = pairs / statistics.median(seconds)
    return found

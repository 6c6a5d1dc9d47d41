"""Tiny Stable Diffusion 1 and 2: recipes, weights and prompts, the same on every machine."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import Array, TokenCond
from memjax.models.adapters import EpsFromV, LinenEps
from memjax.models.clip.text import CLIPText, CLIPTextConfig
from memjax.models.unet.network import UNet, UNetConfig
from memjax.models.vae import AutoencoderKL, VAEConfig
from tests.models.drawn import draw

SPEC = ScheduleSpec("scaled_linear", 1000, 0.00085, 0.012)
SIZE, LENGTH, VOCABULARY, SCALE = 16, 16, 518, 7.5
GOLDEN_STEPS = 10


class Case(NamedTuple):
    """A text-to-image model."""

    unet: UNetConfig
    vae: VAEConfig
    text: CLIPTextConfig
    prediction: str

    @property
    def eps_fn(self):
        network = LinenEps(UNet(self.unet))
        return EpsFromV(network, SPEC) if self.prediction == "v" else network


_UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_blocks=(True, False),
    num_heads=4,
    cross_attention_dim=24,
    norm_num_groups=8,
    zero_init_out=False,
)
_VAE = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
_TEXT = CLIPTextConfig(
    vocab_size=VOCABULARY,
    hidden_size=24,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    max_length=LENGTH,
    eos_token_id=VOCABULARY - 1,
)
CASES = {
    "sd1": Case(_UNET, _VAE, _TEXT, "eps"),
    "sd2": Case(
        dataclasses.replace(_UNET, num_heads=(2, 4), attention_blocks=(False, True)),
        _VAE,
        dataclasses.replace(_TEXT, hidden_act="gelu", num_layers=1),
        "v",
    ),
}


def weights(name: str) -> dict[str, dict]:
    """Returns the parameters of the three networks."""
    case, key = CASES[name], jax.random.key(0)
    cond = TokenCond(jnp.zeros((1, LENGTH, 24)), jnp.ones((1, LENGTH), bool))
    x, t = jnp.zeros((1, SIZE, SIZE, 4)), jnp.zeros((1,), jnp.int32)
    images, ids = jnp.zeros((1, 2 * SIZE, 2 * SIZE, 3)), jnp.zeros((1, LENGTH), jnp.int32)
    shapes = {
        "unet": jax.eval_shape(UNet(case.unet).init, key, x, t, cond),
        "vae": jax.eval_shape(AutoencoderKL(case.vae).init, key, images),
        "text_encoder": jax.eval_shape(CLIPText(case.text).init, key, ids),
    }
    return {part: draw(shape["params"]) for part, shape in shapes.items()}


def prompts() -> np.ndarray:
    """Returns token ids of two prompts and, last, of the empty one."""
    ids = np.full((3, LENGTH), VOCABULARY - 1, np.int32)
    ids[:, 0] = VOCABULARY - 2
    ids[:2, 1:5] = [[97, 40, 515, 300], [515, 41, 9, 60]]
    return ids


def noise(count: int) -> np.ndarray:
    shape = (count, SIZE, SIZE, 4)
    return np.random.RandomState(3).standard_normal(shape).astype(np.float32)


def to_bytes(images: Array) -> np.ndarray:
    """Images in [−1, 1] → 0 … 255."""
    return np.round(np.clip(np.asarray(images) * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8)

"""CLIP towers, inputs and weights shared by the golden test, the parity test and the generator."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from memjax.models.clip.text import CLIPText, CLIPTextConfig
from memjax.models.clip.vision import CLIPVision, CLIPVisionConfig
from tests.models.drawn import draw

TEXT = CLIPTextConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=80,
    num_layers=3,
    num_heads=4,
    max_length=12,
    eos_token_id=57,
    projection_dim=20,
)
TEXTS = {
    # OpenAI and Stable Diffusion 1: pooled at the first end token.
    "quick_gelu": TEXT,
    # LAION and Stable Diffusion 2: exact gelu; an older configuration pools at the largest id.
    "gelu": dataclasses.replace(TEXT, hidden_act="gelu", eos_token_id=2, projection_dim=None),
}
VISION = CLIPVisionConfig(
    image_size=24,
    patch_size=8,
    hidden_size=48,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    projection_dim=20,
)
VISIONS = {
    "quick_gelu": VISION,
    # Pixels beyond whole patches are cut.
    "gelu": dataclasses.replace(VISION, hidden_act="gelu", image_size=27, norm_eps=1e-3),
}


def ids() -> np.ndarray:
    """Returns texts of several lengths: ids, the end token 57, padding; 59 is the largest id."""
    rows = np.full((4, 12), 57, np.int32)
    rows[:, 0] = 56
    numbers = np.random.RandomState(0).randint(3, 56, rows.shape)
    for row, length in enumerate((11, 1, 6, 4)):
        rows[row, 1:length] = numbers[row, 1:length]
    rows[2, 3] = 59  # an added token: the two rules of pooling part here
    rows[3, 6:] = 0
    return rows


def pictures(config: CLIPVisionConfig) -> np.ndarray:
    shape = (3, config.image_size, config.image_size, config.num_channels)
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def text_weights(config: CLIPTextConfig) -> dict:
    """Returns the same parameters on every machine."""
    init = CLIPText(config).init
    return draw(jax.eval_shape(init, jax.random.key(0), jnp.asarray(ids()))["params"])


def vision_weights(config: CLIPVisionConfig) -> dict:
    """Returns the same parameters on every machine."""
    x = jnp.asarray(pictures(config))
    return draw(jax.eval_shape(CLIPVision(config).init, jax.random.key(0), x)["params"])

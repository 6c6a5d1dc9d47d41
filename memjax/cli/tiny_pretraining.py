"""What a tiny base model knows before it is fine-tuned: many scenes, each seen a few times."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from memjax import interop
from memjax.core.types import Params
from memjax.training.fine_tune import Tuning, make_fine_tune_step, with_frozen
from memjax.training.latent_batches import LatentBatch
from memjax.training.latents import encode_moments
from memjax.training.optimizer import make_optimizer
from memjax.training.options import TrainOptions
from memjax.training.state import create_state

_ENCODED_AT_ONCE = 64


def pretrain(
    pipeline: Any,
    images: Float[np.ndarray, "n h w 3"],
    captions: Sequence[str],
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Params:
    """Trains a pipeline's network from its random weights; a tenth of the captions are dropped.

    Args:
        pipeline: Its autoencoder and text encoder stay as they are.
        images: Pictures in [-1, 1].
        captions: What they show.
        steps: Updates; 0 returns the weights as they are.
        batch_size: Examples an update.
        learning_rate: The highest; after at most 50 updates it falls along a cosine.
        seed: Decides order and noise.
        progress: Called with (updates done, updates in all).

    Returns:
        The moving average of the weights.
    """
    if not steps:
        return pipeline.unet_params
    options = TrainOptions(prediction=pipeline.prediction, cond_dropout=0.1, ema_decay=0.995)
    tx = make_optimizer(learning_rate, min(50, steps // 10), steps, "cosine")
    tuning, key = Tuning(), jax.random.key(seed)
    trained, frozen = tuning.start(key, pipeline.unet_params)
    state = create_state(trained, tx, jax.random.fold_in(key, 1))
    step = with_frozen(
        make_fine_tune_step(
            pipeline.unet,
            pipeline.spec.build(),
            tx,
            options,
            tuning,
            scaling_factor=pipeline.vae.config.scaling_factor,
        ),
        frozen,
    )
    moments, (null, table) = _moments(pipeline, images), _embeddings(pipeline, captions)
    labels = np.arange(1, batch_size + 1, dtype=np.int32)[:, None]
    rng = np.random.default_rng([seed, 9])
    for number in range(steps):
        rows = rng.integers(len(images), size=batch_size).astype(np.int32)
        batch = LatentBatch(moments[rows], labels, rows, np.concatenate([null, table[rows]]))
        state, _ = step(state, batch)
        if progress is not None:
            progress(number + 1, steps)
    return jax.device_get(state.ema_params)


def _moments(pipeline: Any, images: np.ndarray) -> np.ndarray:
    parts = [
        encode_moments(pipeline.vae, pipeline.vae_params, images[i : i + _ENCODED_AT_ONCE])
        for i in range(0, len(images), _ENCODED_AT_ONCE)
    ]
    return np.concatenate(parts)


def _embeddings(pipeline: Any, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    bundle = interop.make_bundle(pipeline)
    cond = bundle.encode([{"caption": text} for text in captions])
    return np.asarray(bundle.null_cond.embeddings), np.asarray(cond.embeddings)

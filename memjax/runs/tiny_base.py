"""A tiny text-to-image model of its own making, to fine-tune where no other is at hand.

Its autoencoder and its network are trained on scenes for some minutes, so that it knows what
captions mean before it is fine-tuned; its text encoder is random.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from memjax import interop
from memjax.core.types import Params
from memjax.data.images import to_unit
from memjax.data.phantoms.scenes import draw_scenes, scene_words
from memjax.models.vae import AutoencoderKL
from memjax.runs.outputs import progress_bar
from memjax.training.autoencoder import averaging_start, train_autoencoder
from memjax.training.fine_tune import Tuning, make_fine_tune_step, with_frozen
from memjax.training.latents import LatentBatch, encode_moments
from memjax.training.objective import TrainOptions
from memjax.training.optimizer import make_optimizer
from memjax.training.state import create_state

_ENCODED_AT_ONCE = 64
# Scenes of the base are drawn from another stream than those of a data set.
_SCENES = 1_000_003
_BETA_END = 0.02
_QUIET = 0.05
_LENGTH = 24  # tokens: the longest caption of a scene has 15 words, and a few may be inserted


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
        images: Images in [-1, 1].
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


def make_tiny_base(folder: Path, settings: Mapping[str, Any], size: int) -> Path:
    """Makes the model and writes its folder, unless it is there.

    Args:
        folder: Where it goes.
        settings: The ``fine_tune.tiny`` section of a configuration.
        size: Edge of the images.
    """
    if (folder / "model_index.json").is_file():
        return folder
    seed, channels = settings["seed"], tuple(settings["channels"])
    pipeline = interop.tiny_pipeline(
        "sd2",
        seed=seed,
        latent_size=size // 2,
        words=scene_words(),
        unet={
            "block_out_channels": channels,
            "attention_blocks": (False, True),
            "num_heads": 4,
            "cross_attention_dim": settings["text_width"],
        },
        vae={"norm_num_groups": 2, "mid_attention": False},
        text={"max_length": _LENGTH},
    )
    scenes = draw_scenes(_SCENES + seed, settings["num_scenes"], size)
    images = to_unit(np.stack([scene.image for scene in scenes]))
    trained = train_autoencoder(
        pipeline.vae,
        averaging_start(pipeline.vae, pipeline.vae_params),
        images,
        steps=settings["autoencoder_steps"],
        batch_size=8,
        learning_rate=2e-3,
        seed=seed,
        progress=progress_bar("autoencoder"),
    )
    print(f"tiny base: the autoencoder's RMS error is {trained.error:.3f} in units of [-1, 1]")
    pipeline = _scaled(pipeline, trained.params, trained.scaling_factor)
    text = _attentive(pipeline.text_params, int(pipeline.tokenizer.special_ids["pad_token_id"]))
    pipeline = pipeline._replace(text_params=text)
    weights = pretrain(
        pipeline,
        images,
        [scene.caption for scene in scenes],
        steps=settings["pretraining_steps"],
        seed=seed,
        progress=progress_bar("pretraining"),
    )
    interop.save(pipeline._replace(unet_params=weights), folder)
    return folder


def _attentive(params: Any, padding: int) -> Any:
    """Makes padding and places quiet, so that a text's padding says what the text says.

    In a trained text encoder it does: the end of a text sums it up. In a random one most of each
    token is its own entry in the tables, and captions differ in a few tokens.
    """
    words, places = (f"embeddings.{name}_embedding" for name in ("token", "position"))
    table = np.array(params[words]["embedding"])
    table[padding] *= _QUIET
    quiet = _QUIET * np.asarray(params[places]["embedding"])
    return {**params, words: {"embedding": table}, places: {"embedding": quiet}}


def _scaled(pipeline: Any, params: Any, factor: float) -> Any:
    """Puts the autoencoder in, with latents of variance one and a schedule that ends in noise.

    Stable Diffusion's own schedule leaves 7 % of the image at its end. In latents as small as
    these that is enough to tell the image's mean color, which the network then takes from the
    initial noise instead of from the caption. A network that predicts v, as Stable Diffusion 2
    does, can start from such noise; the error of one that predicts ε would be divided by √ᾱ_T.
    """
    vae = AutoencoderKL(dataclasses.replace(pipeline.vae.config, scaling_factor=factor))
    files = {**pipeline.settings}
    files["vae"] = {**files["vae"], "scaling_factor": factor}
    files["scheduler"] = {**files["scheduler"], "beta_end": _BETA_END}
    spec = dataclasses.replace(pipeline.spec, beta_end=_BETA_END)
    return pipeline._replace(vae=vae, vae_params=params, spec=spec, settings=files)

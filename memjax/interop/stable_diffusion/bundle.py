"""A Stable Diffusion pipeline as the bundle that every command works on."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from memjax.core.types import Array, Bundle, EpsFn, Params, PromptRow, TextCond
from memjax.interop.stable_diffusion.pipeline import Pipeline
from memjax.models.adapters import EpsFromV, LinenEps
from memjax.models.clip.text import CLIPText
from memjax.models.vae import AutoencoderKL

TEXTS_AT_ONCE = 16
# Pixels of the latents decoded at once: two images of 512 × 512.
PIXELS_AT_ONCE = 2 * 64 * 64
_LOG = logging.getLogger(__name__)


def make_bundle(pipeline: Pipeline) -> Bundle:
    """Returns what every command works on.

    ``encode`` takes rows with a ``caption``; every position is attended to, padding as well, as
    Stable Diffusion was trained, and the condition says beside it where each text ends. ``decode``
    takes scaled latents and returns images in [−1, 1], a few at a time. ``describe`` gives the
    tokenizer's words.

    .. note:: Prompts that are longer than the text encoder reads are cut; a warning is logged with
        how many, once for each prompt.
    """
    encode = functools.partial(_encode, pipeline, set[str]())
    return Bundle(
        eps_fn=eps_function(pipeline),
        params=pipeline.unet_params,
        schedule=pipeline.spec.build(),
        sample_shape=pipeline.sample_shape,
        encode=encode,
        null_cond=encode([{"caption": ""}]),
        decode=functools.partial(_decode, pipeline),
        describe=lambda row: pipeline.tokenizer.words(caption(row)),
        info=pipeline.info,
    )


def eps_function(pipeline: Pipeline) -> EpsFn:
    """Returns the U-Net as ε-predictor, whatever it predicts itself."""
    network = LinenEps(pipeline.unet)
    return EpsFromV(network, pipeline.spec) if pipeline.prediction == "v" else network


def caption(row: PromptRow) -> str:
    """Returns a prompt row's text.

    Raises:
        ValueError: The row has no ``caption`` that is a text.
    """
    text = row.get("caption")
    if not isinstance(text, str):
        raise ValueError(
            f"prompt {row.get('id', '')}: caption is {text!r}, expected a text: Stable Diffusion "
            "reads captions."
        )
    return text


def _encode(pipeline: Pipeline, told: set[str], rows: Sequence[PromptRow]) -> TextCond:
    texts = [caption(row) for row in rows]
    tokens = pipeline.tokenizer.encode(texts)
    _tell_cut(told, texts, tokens.cut, pipeline.tokenizer.max_length)
    run = functools.partial(_hidden, pipeline.text, pipeline.text_params)
    embeddings = in_parts(run, tokens.ids, TEXTS_AT_ONCE)
    seen = jnp.ones(embeddings.shape[:2], bool)
    length = jnp.asarray(pipeline.tokenizer.lengths(tokens.ids))
    return TextCond(jnp.asarray(embeddings), seen, length)


def _tell_cut(told: set[str], texts: Sequence[str], cut: np.ndarray, length: int) -> None:
    long = {text: int(count) for text, count in zip(texts, cut, strict=True) if count}
    new = {text: count for text, count in long.items() if text not in told}
    if new:
        told.update(new)
        _LOG.warning(
            "%d of %d prompts are longer than %d tokens and were cut (at most by %d tokens)",
            len(new),
            len(texts),
            length,
            max(new.values()),
        )


@functools.partial(jax.jit, static_argnums=0)
def _hidden(text: CLIPText, params: Params, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
    features: Any = text.apply({"params": params}, ids)
    return features.hidden.astype(jnp.float32)


def _decode(pipeline: Pipeline, latents: Float[Array, "b h w z"]) -> Float[np.ndarray, "b h w 3"]:
    height, width = latents.shape[1:3]
    at_once = max(1, min(16, PIXELS_AT_ONCE // (height * width)))
    scale = np.float32(1.0 / pipeline.vae.config.scaling_factor)
    run = functools.partial(_images, pipeline.vae, pipeline.vae_params, scale)
    return in_parts(run, latents, at_once)


@functools.partial(jax.jit, static_argnums=0)
def _images(
    vae: AutoencoderKL, params: Params, scale: Float[Array, ""], latents: Float[Array, "b h w z"]
) -> Float[Array, "b hp wp 3"]:
    unscaled = latents.astype(jnp.float32) * scale
    images: Any = vae.apply({"params": params}, unscaled, method="decode")
    return jnp.clip(images, -1.0, 1.0)


def in_parts(
    run: Callable[[Any], Array], rows: Float[Array, "n *d"], at_once: int
) -> Float[np.ndarray, "n *e"]:
    """Runs a function over rows in parts of at most ``at_once``, padded to a power of two.

    Few sizes of a part, so few programs are compiled, and memory does not grow with the rows.
    """
    rows = np.asarray(rows)
    if not len(rows):
        shape = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *rows.shape[1:]), rows.dtype))
        return np.zeros((0, *shape.shape[1:]), np.float32)
    done = []
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        size = min(at_once, 1 << (len(part) - 1).bit_length())
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        done.append(np.asarray(run(padded))[: len(part)])
    return np.concatenate(done)

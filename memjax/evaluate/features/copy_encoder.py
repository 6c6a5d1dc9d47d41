"""A copy detector of our own: an encoder trained from scratch on the training images.

Two changed versions of an image are pulled together, all other images of the batch pushed away
(InfoNCE): ``−log exp(ρ(z, z⁺)/τ) / Σ exp(ρ(z, z')/τ)`` over the other ``2B − 1`` views, with ``ρ``
the Pearson correlation of two embeddings and ``τ = 0.1``.

.. note:: ``ρ`` is the cosine of embeddings from which their own mean is taken, in training and in
    use alike. There is no projection head that is thrown away, no momentum encoder and no stopped
    gradient: both views carry gradients through the same weights.
.. note:: Other images of the same patient count as other images: a follow-up is no copy.

References:
    Dar et al., arXiv 2307.01148, section 2.2; arXiv 2402.01054, methods.
    van den Oord et al., arXiv 1807.03748, equation 4 (InfoNCE).
"""

import dataclasses
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.core.types import Array, Params
from memjax.evaluate.features.base import Images, in_chunks
from memjax.evaluate.similarity.knn import Groups
from memjax.evaluate.similarity.ladder import fit_thresholds
from memjax.evaluate.similarity.planted import Augmentation, augment, measure_planted, planted_auc
from memjax.evaluate.similarity.rungs import copy_rung
from memjax.models.copy_encoder import CopyEncoderNetwork
from memjax.runtime.files import replacing
from memjax.runtime.json import dumps, loads

TEMPERATURE = 0.1
_WEIGHT_DECAY = 1e-3
_MIN_IMAGES = 8
_FORMAT = 1
_HEADER = "memjax"


class CopyEncoder(NamedTuple):
    """A trained encoder; a :class:`~memjax.evaluate.features.base.FeatureFn`.

    Attributes:
        module: The network.
        params: Its weights.
        name: Says how it was trained.
        threshold: Correlation above which an image is a copy: the 95th percentile of held-out
            images' to their nearest training image, the median of the classes' where known.
        calibration: JSON-able: ``auc_planted, auc_low, auc_high`` (planted copies against the
            nearest training image of held-out images, within their class), the AUC of each kind
            (``augmented, blurred, shifted``, each with ``_low`` and ``_high``),
            ``positives_5th_percentile`` (of planted copies), ``threshold_pooled``,
            ``threshold_of_class``, ``num_planted``, ``num_held_out``, ``share_of_planted_found``.
    """

    module: CopyEncoderNetwork
    params: Params
    name: str
    threshold: float
    calibration: dict[str, Any]

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Returns the embeddings; compare them by Pearson correlation (``copy_rung`` does)."""
        return in_chunks(partial(_embed, self.module, self.params), images)


@partial(jax.jit, static_argnums=0)
def _embed(module: CopyEncoderNetwork, params: Params, images: Array) -> Array:
    embeddings: Any = module.apply({"params": params}, images)
    return embeddings


def info_nce(
    z: Float[Array, "two_b d"], temperature: float | Array = TEMPERATURE
) -> Float[Array, ""]:
    """Returns the mean InfoNCE loss of ``2B`` embeddings; row ``i`` and ``i + B`` are one image.

    ``−ρ(z_i, z_i⁺)/τ + log Σ_{j≠i} exp(ρ(z_i, z_j)/τ)`` with Pearson's ``ρ``.
    """
    z = z - jnp.mean(z, axis=1, keepdims=True)
    z = z * jax.lax.rsqrt(jnp.sum(z * z, axis=1, keepdims=True) + 1e-12)
    logits = jnp.dot(z, z.T, precision="highest") / temperature
    logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, logits)
    positive = jnp.diagonal(jnp.roll(logits, len(z) // 2, axis=1))
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)


_ADAM = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(_WEIGHT_DECAY))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _step(module, amount: Augmentation, params, opt_state, key, images, rate):
    """One update on two changed versions of each image; numbers are traced."""

    def loss_fn(params):
        views = augment(key, jnp.concatenate([images, images]), amount)
        return info_nce(module.apply({"params": params}, views))

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = _ADAM.update(grads, opt_state, params)
    updates = jax.tree.map(lambda update: -rate * update, updates)
    return optax.apply_updates(params, updates), opt_state, loss


def train_copy_encoder(
    images: Images,
    held_images: Images,
    *,
    strata: ArrayLike | None = None,
    held_strata: ArrayLike | None = None,
    patients: Groups | None = None,
    held_patients: Groups | None = None,
    seed: int = 0,
    steps: int = 800,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    width: int = 16,
    features: int = 64,
    flip: bool = False,
    amount: Augmentation | None = None,
) -> CopyEncoder:
    """Trains the encoder on the training images and calibrates it on held-out and planted ones.

    Args:
        images: ``[n, h, w, c]`` training images in [-1, 1], duplicates removed.
        held_images: Real images of other patients.
        strata: Class of each training image, for calibration within classes.
        held_strata: Class of each held-out image.
        patients: Patient of each training image.
        held_patients: Patient of each held-out image.
        seed: Decides initial weights, order, changes and planted copies.
        steps: Training steps.
        batch_size: Images a step, two views each; at most all of them.
        learning_rate: Peak of a cosine schedule with a short warm-up.
        width: Channels of the first layer, a multiple of 8.
        features: Length of the embedding.
        flip: Whether a mirrored image counts as a copy; not for chest films.
        amount: How far views are changed; None: the defaults.

    Raises:
        ValueError: If there are too few images or they are too small.
    """
    _check(images, held_images)
    module = CopyEncoderNetwork(features, width)
    init_key, loop_key = jax.random.split(jax.random.key(seed))
    params = module.init_params(init_key, images.shape[1:])
    given = dataclasses.replace(amount or Augmentation(), flip=flip)
    opt_state = _ADAM.init(params)
    rng = np.random.default_rng([seed, 53])
    for index in range(steps):
        rows = np.sort(rng.choice(len(images), min(batch_size, len(images)), replace=False))
        rate = learning_rate * min((index + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * index / steps))
        key = jax.random.fold_in(loop_key, index)
        part = np.asarray(images[rows], np.float32)
        params, opt_state, _ = _step(module, given, params, opt_state, key, part, rate)
    name = f"contrastive copy encoder (InfoNCE, {features} numbers, {steps} steps, seed {seed})"
    encoder = CopyEncoder(module, params, name, float("nan"), {})
    return calibrate(
        encoder, images, held_images, strata=strata, held_strata=held_strata,
        patients=patients, held_patients=held_patients, seed=seed,
    )  # fmt: skip


def calibrate(
    encoder: CopyEncoder,
    images: Images,
    held_images: Images,
    *,
    strata: ArrayLike | None = None,
    held_strata: ArrayLike | None = None,
    patients: Groups | None = None,
    held_patients: Groups | None = None,
    seed: int = 0,
) -> CopyEncoder:
    """Returns the encoder with its threshold and its figures on planted copies.

    Arguments as for :func:`train_copy_encoder`.
    """
    rung = copy_rung(encoder)
    known = None if patients is None else held_patients
    background = rung.build(images, patients)(held_images, known).similarity
    thresholds = fit_thresholds(background, held_strata)
    planted = measure_planted(
        rung, images, held_images, strata=strata, held_strata=held_strata,
        patients=patients, held_patients=known, seed=seed,
    )  # fmt: skip
    areas = planted_auc(planted, seed=seed)
    positives = np.concatenate(list(planted.copies.values()))
    threshold = float(np.median(thresholds.of(held_strata, len(held_images))))
    figures: dict[str, Any] = {
        "auc_planted": areas["pooled"].value,
        "auc_low": areas["pooled"].low,
        "auc_high": areas["pooled"].high,
        "positives_5th_percentile": float(np.percentile(positives, 5)),
        "share_of_planted_found": float(np.mean(positives > threshold)),
        "threshold_pooled": thresholds.pooled,
        "threshold_of_class": {str(k): v for k, v in thresholds.of_class.items()},
        "num_planted": len(positives),
        "num_held_out": len(planted.others),
    }
    for kind in planted.copies:
        figures |= {kind: areas[kind].value, f"{kind}_low": areas[kind].low}
        figures[f"{kind}_high"] = areas[kind].high
    return encoder._replace(threshold=threshold, calibration=figures)


def _check(images: Images, held_images: Images) -> None:
    if len(images) < _MIN_IMAGES or not len(held_images):
        raise ValueError(
            f"{len(images)} training and {len(held_images)} held-out images were given, the copy "
            f"encoder needs at least {_MIN_IMAGES} and 1; add images."
        )
    if images.ndim != 4 or images.shape[1:] != held_images.shape[1:]:
        raise ValueError(
            f"training images have shape {images.shape} and held-out ones {held_images.shape}, "
            "expected [n, height, width, channels] of one size; resize them first."
        )


def save_copy_encoder(
    path: str | os.PathLike[str], encoder: CopyEncoder, made_of: str = ""
) -> None:
    """Writes weights, threshold and calibration as ``.npz``, whole or not at all.

    Args:
        path: File to write; an existing one is replaced.
        encoder: The trained encoder.
        made_of: What it was trained on and how, as a digest.
    """
    file = Path(path)
    leaves = jax.tree_util.tree_flatten_with_path(encoder.params)[0]
    arrays = {
        "/".join(str(entry.key) for entry in where): np.asarray(leaf) for where, leaf in leaves
    }
    header = {
        "format": _FORMAT,
        "features": encoder.module.features,
        "width": encoder.module.width,
        "name": encoder.name,
        "threshold": encoder.threshold,
        "calibration": encoder.calibration,
        "made_of": made_of,
    }
    with replacing(file) as out:
        np.savez(out, allow_pickle=False, **{_HEADER: np.array(dumps(header)), **arrays})


def load_copy_encoder(
    path: str | os.PathLike[str], image_shape: tuple[int, int, int], made_of: str | None = None
) -> CopyEncoder:
    """Reads what :func:`save_copy_encoder` wrote; no pickle is ever executed.

    Args:
        path: The file.
        image_shape: ``(height, width, channels)`` of the images it is to be used on.
        made_of: What it must have been trained on, as :func:`save_copy_encoder` was told; None:
            anything.

    Raises:
        ValueError: If the file is damaged or not one of ours, or was trained on images of another
            shape or on other images.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            header = loads(str(stored[_HEADER]))
            arrays = {name: stored[name] for name in stored.files if name != _HEADER}
        module = CopyEncoderNetwork(int(header["features"]), int(header["width"]))
        name, threshold = str(header["name"]), float(header["threshold"])
        calibration = dict(header["calibration"])
        found = header.get("made_of", "")
    except Exception as error:  # a damaged zip file raises whatever its readers do
        raise ValueError(
            f"{os.fspath(path)} is not a saved copy encoder; remove it to train one anew."
        ) from error
    if made_of not in (None, found):
        raise ValueError(
            f"{os.fspath(path)} was trained on other images, or otherwise; remove it to train "
            "one anew."
        )
    params = _nested(arrays)
    expected = module.init_params(jax.random.key(0), image_shape)
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
        raise ValueError(
            f"{os.fspath(path)} was trained on images of another shape than {image_shape}; "
            "remove it to train one anew."
        )
    return CopyEncoder(module, params, name, threshold, calibration)


def _nested(arrays: dict[str, np.ndarray]) -> dict:
    tree: dict = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jnp.asarray(array)
    return tree

"""Copies made on purpose: does a rung tell them from other images of the same class?

They are images under small changes, under which an image stays a copy of itself.

References:
    arXiv 2510.01793 (filters tuned on real pairs alone miss generated near-duplicates, so a filter
    is to be calibrated on copies made on purpose); Dar et al., arXiv 2307.01148, section 2.2, and
    arXiv 2402.01054, methods (which changes).
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from memjax.core.types import Array
from memjax.evaluate.features.base import Images
from memjax.evaluate.similarity.knn import Groups
from memjax.evaluate.similarity.measures import Rung
from memjax.evaluate.statistics.bootstrap import Interval, bootstrap_interval
from memjax.evaluate.statistics.roc import auc

AUGMENTED, BLURRED, SHIFTED = KINDS = ("augmented", "blurred", "shifted")
_BLUR = 1 / 32  # standard deviation as a share of the side
_SHIFT = 1 / 16  # pixels moved, as a share of the side
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far images are changed; every amount is drawn evenly up to the one given.

    Attributes:
        degrees: Rotation either way.
        scale: Enlargement or reduction, as a share.
        shift: Shift either way, as a share of the side.
        contrast: Change of contrast about the image's mean, as a share.
        brightness: Change of brightness, in units of [-1, 1].
        blur: Standard deviation of a Gaussian blur, as a share of the side.
        noise: Standard deviation of added noise, in units of [-1, 1].
        flip: Whether left and right may be swapped. Off: in chest films they differ (the heart).
    """

    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    contrast: float = 0.25
    brightness: float = 0.15
    blur: float = 1 / 32
    noise: float = 0.1
    flip: bool = False


@partial(jax.jit, static_argnums=2)
def augment(
    key: Array, images: Float[Array, "n h w c"], amount: Augmentation
) -> Float[Array, "n h w c"]:
    """Turns, scales and shifts in one resampling, blurs, then changes gray values and adds noise.

    Args:
        key: A typed key.
        images: Images in [-1, 1].
        amount: How far; static.

    Returns:
        Images in [-1, 1].
    """
    keys = jax.random.split(key, 8)
    n, h = images.shape[:2]
    draw = partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    angle = jnp.deg2rad(amount.degrees) * draw(keys[0], (n,))
    zoom = 1.0 + amount.scale * draw(keys[1], (n,))
    images = resample(images, angle, zoom, amount.shift * h * draw(keys[2], (n, 2)))
    if amount.flip:
        swap = jax.random.bernoulli(keys[7], 0.5, (n, 1, 1, 1))
        images = jnp.where(swap, images[:, :, ::-1], images)
    if amount.blur:
        images = blurred(images, amount.blur * h * jax.random.uniform(keys[3], (n,)))
    gain = 1.0 + amount.contrast * draw(keys[4], (n, 1, 1, 1))
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + gain * (images - mean) + amount.brightness * draw(keys[5], (n, 1, 1, 1))
    noise_key, level_key = jax.random.split(keys[6])
    level = amount.noise * jax.random.uniform(level_key, (n, 1, 1, 1))
    return jnp.clip(images + level * jax.random.normal(noise_key, images.shape), -1.0, 1.0)


def resample(
    images: Float[Array, "n h w c"],
    angle: Float[Array, " n"],
    zoom: Float[Array, " n"],
    shift: Float[Array, "n 2"],
) -> Float[Array, "n h w c"]:
    """Rotates about the center (radians), zooms and shifts (pixels down, right), bilinearly.

    Beyond the edge the nearest pixel is repeated.
    """
    h, w = images.shape[1:3]
    down, right = jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    y = down[None, :, None] - shift[:, 0, None, None]
    x = right[None, None, :] - shift[:, 1, None, None]
    cos, sin = (f(angle)[:, None, None] / zoom[:, None, None] for f in (jnp.cos, jnp.sin))
    rows = jnp.clip(cos * y - sin * x + (h - 1) / 2, 0, h - 1)
    columns = jnp.clip(sin * y + cos * x + (w - 1) / 2, 0, w - 1)
    return jax.vmap(_bilinear)(images, rows, columns)


def _bilinear(
    image: Float[Array, "h w c"], rows: Float[Array, "u v"], columns: Float[Array, "u v"]
) -> Float[Array, "u v c"]:
    h, w = image.shape[:2]
    top = jnp.clip(jnp.floor(rows), 0, h - 2).astype(jnp.int32)
    left = jnp.clip(jnp.floor(columns), 0, w - 2).astype(jnp.int32)
    low, near = (rows - top)[..., None], (columns - left)[..., None]
    above = (1 - near) * image[top, left] + near * image[top, left + 1]
    below = (1 - near) * image[top + 1, left] + near * image[top + 1, left + 1]
    return (1 - low) * above + low * below


def blurred(images: Float[Array, "n h w c"], sigma: Float[Array, " n"]) -> Float[Array, "n h w c"]:
    """Blurs each image with its own Gaussian (pixels); weights are renormalized at the edge."""
    down, across = (_blur_matrix(size, sigma) for size in images.shape[1:3])
    images = jnp.einsum("nvw,nhwc->nhvc", across, images)
    return jnp.einsum("nuh,nhvc->nuvc", down, images)


def _blur_matrix(size: int, sigma: Float[Array, " n"]) -> Float[Array, "n size size"]:
    at = jnp.arange(size)
    gap = (at[:, None] - at[None]).astype(jnp.float32)[None]
    weights = jnp.exp(-0.5 * (gap / jnp.maximum(sigma, 1e-3)[:, None, None]) ** 2)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


class Planted(NamedTuple):
    """Similarities of planted copies and of real images that are none.

    Attributes:
        copies: Of each planted copy to its nearest training image of its class, by kind.
        sources: Training row from which each copy (of every kind) was made.
        others: Of each held-out image to its nearest training image of its class.
    """

    copies: dict[str, Float[np.ndarray, " s"]]
    sources: np.ndarray
    others: Float[np.ndarray, " m"]


def plant_copies(
    images: Images, *, seed: int = 0, amount: Augmentation | None = None
) -> dict[str, Images]:
    """Returns one copy of each kind of every image.

    ``augmented``: all changes of ``amount`` at random but the blur; ``blurred``: a Gaussian of a
    32nd of the side (1 pixel at 32); ``shifted``: a 16th of the side (2 pixels at 32) in one of
    eight directions, the edge repeated.

    Args:
        images: ``[n, h, w, c]`` in [-1, 1].
        seed: Decides the changes.
        amount: How far ``augmented`` goes; None: the defaults, without blur.
    """
    given = amount or Augmentation(blur=0.0)
    made: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for chunk, start in enumerate(range(0, len(images), _CHUNK)):
        part = np.asarray(images[start : start + _CHUNK], np.float32)
        key = jax.random.fold_in(jax.random.key(seed), chunk)
        padded = np.pad(part, [(0, _CHUNK - len(part))] + [(0, 0)] * 3)
        for kind, pictures in _planted(key, padded, given).items():
            made[kind].append(np.asarray(pictures)[: len(part)])
    return {kind: np.concatenate(parts) for kind, parts in made.items()}


def _planted(key, images: np.ndarray, amount: Augmentation) -> dict[str, Any]:
    augment_key, shift_key = jax.random.split(key)
    n, side = len(images), min(images.shape[1:3])
    turn = jax.random.randint(shift_key, (n,), 0, 8) * (jnp.pi / 4)
    step = max(round(_SHIFT * side), 1)
    moved = step * jnp.round(jnp.stack([jnp.sin(turn), jnp.cos(turn)], axis=1))
    still = jnp.zeros(n)
    return {
        AUGMENTED: augment(augment_key, images, amount),
        BLURRED: _blurred(images, jnp.full(n, _BLUR * side)),
        SHIFTED: _resample(images, still, still + 1.0, moved),
    }


_blurred, _resample = jax.jit(blurred), jax.jit(resample)


def measure_planted(
    rung: Rung,
    train: Images,
    held_out: Images,
    *,
    strata: ArrayLike | None = None,
    held_strata: ArrayLike | None = None,
    patients: Groups | None = None,
    held_patients: Groups | None = None,
    num_sources: int = 200,
    seed: int = 0,
) -> Planted:
    """Searches, within each class, for the training image nearest to copies and to others.

    Both are searched for in the same gallery (the training images of the class), so the other
    images count with the *most* similar image of their class: the hardest comparison.

    Args:
        rung: The rung asked.
        train: Training images without duplicates.
        held_out: Real images that were not trained on.
        strata: Class of each training image; None: all are one class.
        held_strata: Class of each held-out image; those of classes without two training images
            are left out.
        patients: Patient of each training image.
        held_patients: Patient of each held-out image.
        num_sources: Training images copied, at most.
        seed: Decides which, and how they are changed.

    Raises:
        ValueError: If classes are known on one side only, or no class has two training images
            and a held-out one.
    """
    classes, held_classes = _classes(strata, held_strata, len(train), len(held_out))
    rng = np.random.default_rng([seed, 31])
    usable = [c for c in np.unique(held_classes) if (classes == c).sum() >= 2]
    pool = np.flatnonzero(np.isin(classes, usable))
    if not pool.size:
        raise ValueError(
            "no class has two training images and a held-out one; use coarser classes."
        )
    sources = np.sort(rng.permutation(pool)[:num_sources])
    planted = plant_copies(train[sources], seed=seed)
    copies = {kind: np.full(len(sources), -np.inf) for kind in KINDS}
    others = np.full(len(held_out), np.nan)
    for name in usable:
        rows, held = np.flatnonzero(classes == name), held_classes == name
        own = None if patients is None else np.asarray(patients)[rows]
        owners = None if held_patients is None else np.asarray(held_patients)[held]
        search = rung.build(train[rows], own)
        others[held] = search(held_out[held], owners).similarity
        mine = np.isin(sources, rows)
        if mine.any():
            for kind in KINDS:
                copies[kind][mine] = search(planted[kind][mine], None).similarity
    return Planted(copies, sources, others[np.isfinite(others)])


def planted_auc(planted: Planted, *, n: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Returns the AUC of copies against other images, for each kind and ``pooled``.

    Intervals resample source images (their three copies together) and held-out images.
    """
    kinds = {kind: (kind,) for kind in planted.copies} | {"pooled": tuple(planted.copies)}
    return {name: _interval(planted, members, n, seed) for name, members in kinds.items()}


def _interval(planted: Planted, kinds: tuple[str, ...], n: int, seed: int) -> Interval:
    scores = np.concatenate([*(planted.copies[kind] for kind in kinds), planted.others])
    positive: Bool[np.ndarray, " r"] = np.arange(len(scores)) < len(scores) - len(planted.others)
    source = np.tile(np.arange(len(planted.sources)), len(kinds))
    clusters = np.concatenate([source, len(planted.sources) + np.arange(len(planted.others))])
    return bootstrap_interval(auc, scores, positive, clusters, n, seed)


def _classes(strata, held_strata, num_train: int, num_held: int) -> tuple[np.ndarray, np.ndarray]:
    if (strata is None) != (held_strata is None):
        raise ValueError(
            "classes were given for training or held-out images only; pass both or neither."
        )
    if strata is None:
        return np.zeros(num_train, np.int64), np.zeros(num_held, np.int64)
    return np.asarray(strata), np.asarray(held_strata)

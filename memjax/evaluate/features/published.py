"""Features of published networks, with the preprocessing that belongs to each.

A similarity measured with SSCD depends on how images are resized before it; papers differ, and
their figures cannot be compared. Every feature function here says in its name what it does.

.. note:: Images are resized as floats. Pipelines on 8-bit files round to whole gray levels after
    the resize; the difference is at most half a level a pixel.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memjax.core.types import Array, Params

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From images in [-1, 1] to what a network was trained on.

    ``y = (resized (x + 1) / 2 − mean) / std``; values beyond [-1, 1] are clipped first.

    Attributes:
        label: What it does, in a few words; part of every feature function's name.
        side: The short side after resizing, or with ``square`` both sides.
        square: Resize to a square, ignoring the aspect ratio.
        crop: Edge of the central square cut out after resizing; 0 cuts nothing.
        crop_first: Cut the largest central square before resizing.
        method: Interpolation; cubic is Keys' with a = −0.5, as in Pillow.
        antialias: Widen the kernel when shrinking, as Pillow does; False samples points, as
            ``torch.nn.functional.interpolate`` does.
        mean: Subtracted from images in [0, 1], a channel.
        std: Divided by, a channel. Their number is the number of channels.
    """

    label: str
    side: int
    square: bool = False
    crop: int = 0
    crop_first: bool = False
    method: Literal["linear", "cubic"] = "linear"
    antialias: bool = True
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 k"]:
        """Returns the network's input; jittable."""
        x = _with_channels(jnp.clip(images, -1.0, 1.0) * 0.5 + 0.5, len(self.mean))
        if self.crop_first:
            x = _central(x, min(x.shape[1:3]))
        height, width = self.resized(x.shape[1], x.shape[2])
        if (height, width) != x.shape[1:3]:
            shape = (len(x), height, width, x.shape[3])
            x = jax.image.resize(x, shape, self.method, antialias=self.antialias)
            x = jnp.clip(x, 0.0, 1.0)  # cubic kernels overshoot, 8-bit files cannot
        if self.crop:
            x = _central(x, self.crop)
        mean, std = jnp.array(self.mean), jnp.array(self.std)
        return (x - mean[None, None, None]) / std[None, None, None]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size after resizing; the long side is rounded down."""
        if self.square:
            return self.side, self.side
        short = min(height, width)
        return self.side * height // short, self.side * width // short


# Each network's own preprocessing, and two more for SSCD. The X-ray network's authors shrink with
# scikit-image, which smooths before it samples; here it is Pillow's widened triangle.
PREPROCESSINGS = {
    "sscd": Preprocessing(
        "short side 288, ImageNet mean/std", 288, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "sscd_square": Preprocessing(
        "square 320, ImageNet mean/std", 320, square=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "sscd_center_crop": Preprocessing("resize 256, center crop 224, mean/std 0.5", 256, crop=224),
    "xrv": Preprocessing(
        "central square, 224 bilinear, [-1024, 1024]",
        224,
        square=True,
        crop_first=True,
        mean=(0.5,),
        std=(1 / 2048,),
    ),
    "rad_dino": Preprocessing(
        "short side 518 bicubic, center crop 518, RAD-DINO mean/std",
        518,
        crop=518,
        method="cubic",
        mean=(0.5307,) * 3,
        std=(0.2583,) * 3,
    ),
    "dinov2": Preprocessing(
        "short side 256 bicubic, center crop 224, ImageNet mean/std",
        256,
        crop=224,
        method="cubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "inception": Preprocessing(
        "299x299 bilinear without antialiasing, [-1, 1]", 299, square=True, antialias=False
    ),
}


def _with_channels(x: Float[Array, "b h w c"], channels: int) -> Float[Array, "b h w k"]:
    """Returns gray as the mean of the channels, color from gray by repetition."""
    if x.shape[-1] == channels:
        return x
    return jnp.repeat(jnp.mean(x, axis=-1, keepdims=True), channels, axis=-1)


def _central(x: Float[Array, "b h w c"], edge: int) -> Float[Array, "b e e c"]:
    """Cuts out the central square; odd margins are rounded to even."""
    top, left = (round((size - edge) / 2) for size in x.shape[1:3])
    return x[:, top : top + edge, left : left + edge]


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedFeatures:
    """A feature function: images in [-1, 1] of any size and channels to one vector each.

    Attributes:
        name: Weights and preprocessing, for every output.
        module: The Flax module.
        params: Its published weights.
        preprocessing: What happens to images first.
        batch_size: Images at a time; the last batch is padded, so one program is compiled for
            each size of image.
    """

    name: str
    module: Any
    params: Params
    preprocessing: Preprocessing
    batch_size: int = 8

    def __call__(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Returns float32 features.

        Raises:
            ValueError: ``images`` is not a non-empty batch of finite NHWC images.
        """
        images = np.asarray(images, np.float32)
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(
                f"The images for {self.name} have shape {images.shape}, expected a non-empty "
                "[n, height, width, channels]."
            )
        if not np.isfinite(images).all():
            raise ValueError(
                f"The images for {self.name} hold values that are not finite; leave those out."
            )
        out = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            missing = self.batch_size - len(part)
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            features = _features(self.module, self.preprocessing, self.params, padded)
            out.append(np.asarray(features)[: len(part)])
        return np.concatenate(out)


@partial(jax.jit, static_argnums=(0, 1))
def _features(module: Any, preprocessing: Preprocessing, params: Params, images: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return module.apply({"params": params}, preprocessing(images))


def published_features(
    module: Any,
    params: Params,
    preprocessing: Preprocessing,
    *,
    weights: str,
    batch_size: int = 8,
) -> PublishedFeatures:
    """Makes a feature function of a network with published weights.

    Args:
        module: The Flax module: a batch of preprocessed images to a batch of vectors.
        params: Its weights.
        preprocessing: One of :data:`PREPROCESSINGS`, or one of your own.
        weights: What the weights are called.
        batch_size: Images at a time.

    Returns:
        A callable named ``weights (preprocessing)``.
    """
    name = f"{weights} ({preprocessing.label})"
    return PublishedFeatures(name, module, jax.device_put(params), preprocessing, batch_size)

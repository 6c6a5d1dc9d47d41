"""Augmentation of training images: small random rotations, shifts, zooms and mirror images.

Every time a row is drawn its image is moved anew, by the generator of its place in the order: a
function of seed and step, the same on any number of processes and after a restart.

References:
    Dar et al. 2024, arXiv 2402.01054 (augmented training copies fewer patients); Keys 1981, IEEE
    TASSP 29(6), eq. 15 (cubic convolution).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32

_OFFSETS = np.arange(-1, 3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """``(image, generator) → image``: one random affine map, resampled by cubic convolution.

    Pixels from outside repeat the edge. Every call takes five numbers of the generator, whatever is
    switched on.

    Attributes:
        rotate: Largest angle in degrees, to either side.
        shift: Largest shift along each axis, as a share of the edge.
        zoom: Largest change of scale: factors are uniform in ``[1 − zoom, 1 + zoom]``.
        flip: Whether half of the draws swap left and right. Chest films then lose their sides.
    """

    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        for name, most in (("rotate", 180.0), ("shift", 0.5), ("zoom", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"augment.{name} is {getattr(self, name)}; expected 0 (off) to {most:g}."
                )

    def __bool__(self) -> bool:
        """Whether anything is switched on."""
        return self != Augmentation()

    def __call__(
        self, image: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Returns the image moved at random, within [-1, 1]."""
        draws = generator.random(5)
        angle, down, right, scale = 2.0 * draws[:4] - 1.0
        if self.flip and draws[4] < 0.5:
            image = image[:, ::-1]
        if not (self.rotate or self.shift or self.zoom):
            return image
        height, width = image.shape[:2]
        angle, scale = np.deg2rad(self.rotate * angle), 1.0 + self.zoom * scale
        y = (np.arange(height) - (height - 1) / 2 - self.shift * down * height)[:, None]
        x = (np.arange(width) - (width - 1) / 2 - self.shift * right * width)[None, :]
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        moved = sampled(
            image, cos * y - sin * x + (height - 1) / 2, sin * y + cos * x + (width - 1) / 2
        )
        return np.clip(moved, -1.0, 1.0)


def sampled(
    image: Float32[np.ndarray, "h w c"],
    rows: Float[np.ndarray, "h2 w2"],
    columns: Float[np.ndarray, "h2 w2"],
) -> Float32[np.ndarray, "h2 w2 c"]:
    """Returns the image at fractional positions, by Keys's cubic convolution (a = −1/2)."""
    top, left = np.floor(rows).astype(np.int32), np.floor(columns).astype(np.int32)
    down, across = _cubic_weights(rows - top), _cubic_weights(columns - left)
    y = np.clip(top + _OFFSETS[:, None, None], 0, image.shape[0] - 1)
    x = np.clip(left + _OFFSETS[:, None, None], 0, image.shape[1] - 1)
    out = np.zeros((*rows.shape, image.shape[2]), np.float32)
    for weight, row in zip(down, y, strict=True):
        taps = [across[j][..., None] * image[row, x[j]] for j in range(4)]
        out += weight[..., None] * (taps[0] + taps[1] + taps[2] + taps[3])
    return out


def _cubic_weights(f: Float[np.ndarray, "h w"]) -> Float32[np.ndarray, "4 h w"]:
    """Weights of the pixels at −1, 0, 1 and 2 for a point between 0 and 1."""
    f2, f3 = f * f, f * f * f
    weights = [2 * f2 - f - f3, 2 - 5 * f2 + 3 * f3, f + 4 * f2 - 3 * f3, f3 - f2]
    return 0.5 * np.stack(weights).astype(np.float32)

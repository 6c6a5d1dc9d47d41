"""One picture of all pictures: as they come, and smaller where they would be too large together."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from memjax.data.images import to_unit
from memjax.training.logging import write_grid

PIXELS = 16_000_000
_LONG = 12  # prompts; more stand side by side


class PictureGrid:
    """Collects pictures prompt by prompt; each prompt's stand beside each other."""

    def __init__(self, prompts: int, generations: int, pixels: int = PIXELS):
        """Takes how many prompts and pictures a prompt will come, and the largest grid."""
        side_by_side = 1 if prompts <= _LONG else max(1, round(math.sqrt(prompts / generations)))
        self.columns = generations * side_by_side
        self._most = pixels / (prompts * generations)
        self._pictures: list[np.ndarray] = []

    def add(self, images: UInt8[np.ndarray, "g h w c"]) -> None:
        """Adds one prompt's pictures, shrunk where all of them together would be too large."""
        height, width = images.shape[1:3]
        scale = math.sqrt(self._most / (height * width))
        if scale >= 1:
            self._pictures += list(images)
            return
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        self._pictures += [_shrunk(image, size) for image in images]

    def write(self, path: Path) -> None:
        """Writes the grid as PNG."""
        write_grid(path, to_unit(np.stack(self._pictures)), columns=self.columns)


def _shrunk(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> np.ndarray:
    grey = image.shape[-1] == 1
    small = Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small)[..., None] if grey else np.asarray(small)

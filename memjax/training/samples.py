"""Grids of sample images."""

import io
import math
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from memjax.runtime.files import write_bytes


def image_grid(
    images: Float[np.ndarray, "n h w c"], columns: int | None = None, padding: int = 2
) -> UInt8[np.ndarray, "H W c"]:
    """Lays images out row by row.

    Args:
        images: In [-1, 1], 1 or 3 channels; values outside are clipped, non-finite ones are black.
        columns: Images a row; by default as square as can be.
        padding: Black pixels between images.

    Raises:
        ValueError: If ``images`` is not a batch of images.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not images.shape[0] or images.shape[3] not in (1, 3):
        raise ValueError(f"images have shape {images.shape}, expected [n, height, width, 1 or 3].")
    n, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    pixels = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    pixels = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    cells = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    cells[:n, :height, :width] = pixels
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = cells.reshape(rows * (height + padding), columns * (width + padding), channels)
    return grid[: grid.shape[0] - padding, : grid.shape[1] - padding]


def png_bytes(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Encodes one image, grey or RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_grid(
    path: str | os.PathLike[str],
    images: Float[np.ndarray, "n h w c"],
    columns: int | None = None,
) -> Path:
    """Writes a grid of images in [-1, 1] as PNG."""
    return write_bytes(path, png_bytes(image_grid(images, columns)))

"""Images in and out: one decode-and-resize path, and the [-1, 1] convention.

A file is read the way a viewer shows it; :mod:`memjax.data.pixels` and :mod:`memjax.data.dicom`
say what that means for each kind of pixels.
"""

import contextlib
import errno
import importlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, cast

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from memjax.data import dicom
from memjax.data.pixels import Reading, as_shown

Square = Literal["crop", "pad", "stretch"]
MAX_PIXELS = 80_000_000  # below where Pillow itself begins to warn
READING = 3  # raised where the same file gives other pixels than before; caches of images name it
SUFFIXES: tuple[str, ...] = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".jfif", ".jpe", ".tif", ".tiff", ".gif"),
    *(".avif", ".jp2", ".pgm", ".ppm", *dicom.SUFFIXES),
)
# What Pillow may take a file for. Others of its formats start programs (EPS) or are no images.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
# Where ``open_image`` stands for addresses of this kind; by name, so that a worker process knows
# it too and a library is imported only when one of its images is read.
OPENERS: dict[str, str] = {
    "tfds": "memjax.data.readers.tfds",
    "digits": "memjax.data.readers.digits",
}


class CorruptImageError(ValueError):
    """A file that cannot be decoded; the message names it, ``reason`` says why in a few words."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message, reason)
        self.message, self.reason = message, reason

    def __str__(self) -> str:
        return self.message


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a local path, or a URL such as ``gs://…`` through etils.epath, for reading."""
    text = os.fspath(path)
    if "://" in text:
        return cast(BinaryIO, epath.Path(text).open("rb"))
    if os.path.exists(text) and not os.path.isfile(text):  # a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file", text)
    return open(text, "rb")


def load_image(
    path: str | os.PathLike[str], size: int, channels: int = 1, *, square: Square = "crop"
) -> UInt8[np.ndarray, "size size channels"]:
    """Read a file, upright, as a square grayscale or color image.

    Args:
        path: A file that Pillow reads, or an address such as ``tfds://…#train/12``.
        size: Edge in pixels.
        channels: 1 for grayscale, 3 for color.
        square: ``crop`` cuts the long side about the center, ``pad`` fills the short side with
            black, ``stretch`` ignores the aspect ratio.

    Raises:
        CorruptImageError: The file is missing or cannot be decoded.
    """
    return read_image(path, size, channels, square=square)[0]


def read_image(
    path: str | os.PathLike[str], size: int, channels: int = 1, *, square: Square = "crop"
) -> tuple[UInt8[np.ndarray, "size size channels"], Reading]:
    """As :func:`load_image`, and how the file was read."""
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"channels is {channels}; expected 1 (grayscale) or 3 (color).")
    image, reading = _decode(path, mode)
    return _resized(image, size, channels, square), reading


def image_reading(path: str | os.PathLike[str]) -> Reading:
    """How a file is read; it is decoded for that.

    Raises:
        CorruptImageError: The file is missing or cannot be decoded.
    """
    return _decode(path, "L")[1]


def _decode(path: str | os.PathLike[str], mode: str) -> tuple[Image.Image, Reading]:
    try:
        with _open_image(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
            return as_shown(image, mode)
    except Exception as error:  # whatever the parsers of damaged files raise
        raise CorruptImageError(
            f"The image {os.fspath(path)} cannot be decoded ({_reason(error)}); remove its row or "
            "restore the file.",
            _reason(error),
        ) from error


@contextlib.contextmanager
def _open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The image behind a path or an address, opened but not yet decoded."""
    text = os.fspath(path)
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in OPENERS:
        opener: Callable[[str], Image.Image]
        opener = importlib.import_module(OPENERS[scheme]).open_image
        with opener(text) as image:
            yield image
        return
    with open_binary(text) as file:
        marked = dicom.is_dicom(file.read(dicom.HEAD))
        file.seek(0)
        if marked:
            opened = dicom.open_dicom(file)
        else:
            try:
                opened = Image.open(file, formats=FORMATS)
            except UnidentifiedImageError as error:
                file.seek(0)
                raise ValueError(_what_else(file.read(64))) from error
        with opened as image:
            yield image


def _what_else(head: bytes) -> str:
    """What a file is that begins so and is no image, as far as that helps."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image: run git lfs pull"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not an image: download it anew"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC, which is not read: save it as JPEG or PNG"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL, which is not read: save it as JPEG or PNG"
    return "not an image"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    words = getattr(error, "strerror", None) or str(error).strip()
    return str(words).splitlines()[0] if words else type(error).__name__


def _resized(image: Image.Image, size: int, channels: int, square: Square) -> np.ndarray:
    if square == "crop":
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge))
    elif square == "pad":
        edge = max(image.size)
        canvas = Image.new(image.mode, (edge, edge))
        canvas.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = canvas
    elif square != "stretch":
        raise ValueError(f"square is {square!r}; expected 'crop', 'pad' or 'stretch'.")
    if image.size != (size, size):
        shrinks = size <= min(image.size)
        image = image.resize(
            (size, size), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        )
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def to_unit(image: UInt8[np.ndarray, "*d"]) -> Float32[np.ndarray, "*d"]:
    """``x = u / 127.5 − 1``: bytes to float32 in [-1, 1]."""
    return image.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1.0)


def to_uint8(image: Float32[np.ndarray, "*d"]) -> UInt8[np.ndarray, "*d"]:
    """``u = round((x + 1) · 127.5)``, clipped: the inverse of :func:`to_unit`."""
    scaled = (np.asarray(image, np.float32) + np.float32(1.0)) * np.float32(127.5)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)

"""Pixels in and out: one decode-and-resize path, and the [-1, 1] convention.

A file is read the way a viewer shows it: turned upright as its EXIF orientation says. Grayscale of
16 bits becomes 8 by the depth that the file uses: the least of 8, 10, 12, 14 and 16 bits that holds
its largest value. ``u = round(255 · v / (2^bits − 1))``, so a 12-bit radiograph in a 16-bit file
spans black to white, and a file with a value of 2^14 or more is divided by 257 as it stands.
"""

import contextlib
import importlib
import os
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, cast

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

Square = Literal["crop", "pad", "stretch"]
MAX_PIXELS = 80_000_000  # below where Pillow itself begins to warn
READING = 2  # raised where the same file gives other pixels than before; caches of images name it
DEPTHS = (8, 10, 12, 14, 16)
# Where ``open_image`` stands for addresses of this kind; by name, so that a worker process knows
# it too and a library is imported only when one of its images is read.
OPENERS: dict[str, str] = {
    "tfds": "memjax.data.readers.tfds",
    "digits": "memjax.data.readers.digits",
}
_TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_COLOR = re.compile(r";16[BLN]")  # Pillow keeps the upper byte of such pixels


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
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"channels is {channels}; expected 1 (grayscale) or 3 (colour).")
    return _resized(_decode(path, mode)[0], size, channels, square)


def reading_notes(path: str | os.PathLike[str]) -> list[str]:
    """What reading changes in a file's pixels, in a few words each; empty for most files.

    Raises:
        CorruptImageError: The file is missing or cannot be decoded.
    """
    return _decode(path, "L")[1]


def image_header(path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Width and height in pixels as they are stored, and Pillow's mode; no pixel is decoded.

    Raises:
        CorruptImageError: The file is missing or no image.
    """
    try:
        with _open_image(path) as image:
            return image.width, image.height, image.mode
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise CorruptImageError(
            f"The image {os.fspath(path)} cannot be opened ({_reason(error)}); restore the file.",
            _reason(error),
        ) from error


def _decode(path: str | os.PathLike[str], mode: str) -> tuple[Image.Image, list[str]]:
    """The upright image with 8 bits a channel, and :func:`reading_notes`."""
    notes: list[str] = []
    try:
        with _open_image(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels")
            deep = _DEEP_COLOR.search(str(getattr(image, "tile", ())))
            image.load()
            turn = _TURNS.get(_orientation(image))
            picture: Image.Image = image
            if image.mode.startswith("I"):
                picture, bits = _from_sixteen_bits(image)
                used = f"stretched ({bits} bits in a 16-bit file)"
                notes.append(used if bits < DEPTHS[-1] else "read from 16 bits")
            elif deep:
                _refuse_dark(image)
            picture = picture.convert(mode)
            if turn is not None:
                picture = picture.transpose(turn)
                notes.append("turned upright (EXIF orientation)")
            return picture, notes
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise CorruptImageError(
            f"The image {os.fspath(path)} cannot be decoded ({_reason(error)}); remove its row or "
            "restore the file.",
            _reason(error),
        ) from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or where what there is cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises whatever its parsers raise; the pixels are good all the same
        return 1
    return found if isinstance(found, int) else 1


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
    with open_binary(text) as file, Image.open(file) as image:
        yield image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _from_sixteen_bits(image: Image.Image) -> tuple[Image.Image, int]:
    """The image with 8 bits, and how many bits the file uses."""
    pixels = np.asarray(image).astype(np.float32)
    bits = next((b for b in DEPTHS if pixels.max() < 1 << b), DEPTHS[-1])
    white = ((1 << bits) - 1) / 255
    return Image.fromarray((pixels / white).clip(0, 255).round().astype(np.uint8)), bits


def _refuse_dark(image: Image.Image) -> None:
    """Refuses 16-bit color that uses 14 bits or fewer: its upper bytes are nearly black."""
    bands = image.split()[: -1 if image.mode.endswith("A") else None]
    largest = max(int(np.asarray(band).max()) for band in bands)
    if largest < 1 << DEPTHS[-2] - 8:
        raise ValueError(
            f"16-bit color or alpha with no value above {largest << 8 | 255} of 65535, which would "
            "be nearly black: save it with 8 bits a channel or as 16-bit grayscale"
        )


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

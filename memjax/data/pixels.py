"""What a decoded file's pixels become: 8 bits, upright, opaque; and what that changed.

Grayscale of 16 bits becomes 8 by the depth that the file uses: the least of 8, 10, 12, 14 and 16
bits that holds its largest value. ``u = round(255 · v / (2^bits − 1))``, so a 12-bit radiograph in
a 16-bit file spans black to white, and a file with a value of 2^14 or more is divided by 257 as it
stands. Floats are read from 0 (black) to 1 (white). What is transparent lies on white.
"""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms

from memjax.data.dicom import BITS_STORED

DEPTHS = (8, 10, 12, 14, 16)
DARK = 15  # of 255: 4 bits in an 8-bit file, or a map of labels
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
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


class Reading(NamedTuple):
    """How a file was read.

    Attributes:
        size: Width and height in pixels as they are stored.
        mode: Pillow's mode of the stored pixels.
        bits: Bits of a channel that the file uses: ``1``, ``8``, …, ``16`` or ``float``.
        notes: What reading changed, in a few words each; empty for most files.
    """

    size: tuple[int, int]
    mode: str
    bits: str
    notes: tuple[str, ...]


def as_shown(image: Image.Image, mode: str) -> tuple[Image.Image, Reading]:
    """The image as a viewer shows it, in ``L`` or ``RGB``.

    Raises:
        ValueError: Its pixels have no one meaning as black to white, or it is a stack of images.
    """
    size, stored = image.size, image.mode
    deep = _DEEP_COLOR.search(str(getattr(image, "tile", ())))
    notes = _frames(image)
    image.load()
    bits, more = image.info.get(BITS_STORED, ("1" if stored == "1" else "8", ()))
    notes += more
    turn = _TURNS.get(_orientation(image))
    shown = image
    if stored.startswith("I"):
        shown, bits, more = _from_integers(image)
        notes += more
    elif stored == "F":
        shown, bits = _from_floats(image), "float"
        notes += ["read from floats, 0 black and 1 white"]
    elif deep:
        _refuse_dark(image)
        bits = "16"
    if image.has_transparency_data and stored[0] not in "IF":
        shown, more = _opaque(image)
        notes += more
    shown = shown.convert(mode)
    notes += _colors(image, shown)
    if turn is not None:
        shown = shown.transpose(turn)
        notes.append("turned upright (EXIF orientation)")
    return shown, Reading(size, stored, bits, tuple(notes))


def _frames(image: Image.Image) -> list[str]:
    """A note where only the first frame is read.

    Raises:
        ValueError: A TIFF of several pages of one size.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return []  # a phone's JPEG with a preview or a depth map behind the image
    if image.format == "TIFF":
        size = image.size
        image.seek(1)
        stack = image.size == size
        image.seek(0)
        if stack:
            count = getattr(image, "n_frames", 2)
            raise ValueError(f"{count} pages of one size in one file: save each as an image")
        return []  # a preview or a pyramid
    return ["read from the first frame of an animation"]


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or where what there is cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises whatever its parsers raise; the pixels are good all the same
        return 1
    return found if isinstance(found, int) else 1


def _from_integers(image: Image.Image) -> tuple[Image.Image, str, list[str]]:
    """The image with 8 bits, how many bits the file uses, and notes."""
    pixels = np.asarray(image).astype(np.int32)
    least, most = int(pixels.min()), int(pixels.max())
    if least < 0 or most >= 1 << DEPTHS[-1]:
        raise ValueError(
            f"values from {least} to {most}, expected 0 to 65535: save it with 8 or 16 bits"
        )
    bits = next((b for b in DEPTHS if most < 1 << b), DEPTHS[-1])
    used = f"stretched ({bits} bits in a 16-bit file)"
    notes = [used if bits < DEPTHS[-1] else "read from 16 bits"]
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = (1 << bits) - 1 - pixels  # Pillow does so for 8 bits alone
        notes.append("inverted (TIFF, white is zero)")
    white = np.float32(((1 << bits) - 1) / 255)
    small = (pixels.astype(np.float32) / white).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(small), str(bits), notes


def _from_floats(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and most <= 1):  # NaN is refused, too
        raise ValueError(
            f"floats from {least:g} to {most:g}, expected 0 to 1: save it with 8 or 16 bits"
        )
    return Image.fromarray((pixels * np.float32(255)).round().astype(np.uint8))


def _opaque(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The image on white; a note where any of it is transparent."""
    layer = image.convert("RGBA")
    least, most = layer.getchannel("A").getextrema()
    if most == 0:
        raise ValueError("wholly transparent: save it without its alpha channel")
    if least == 255:
        return layer.convert("RGB"), []
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB"), ["laid on white (transparent)"]


def _colors(image: Image.Image, shown: Image.Image) -> list[str]:
    notes = []
    if image.mode == "CMYK":
        notes.append("turned from CMYK into RGB without a color profile")
    elif _other_profile(image):
        notes.append("read without its color profile, which is not sRGB")
    extrema = np.asarray(shown.getextrema())
    if image.mode != "1" and 0 < extrema.max() <= DARK:
        notes.append(f"nearly black (no value above {DARK} of 255)")
    return notes


def _other_profile(image: Image.Image) -> bool:
    profile = image.info.get("icc_profile")
    if not profile:
        return False
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" not in ImageCms.getProfileDescription(found).casefold()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return True


def _refuse_dark(image: Image.Image) -> None:
    """Refuses 16-bit color that uses 14 bits or fewer: its upper bytes are nearly black."""
    bands = image.split()[: -1 if image.mode.endswith("A") else None]
    largest = max(int(np.asarray(band).max()) for band in bands)
    if largest < 1 << DEPTHS[-2] - 8:
        raise ValueError(
            f"16-bit color or alpha with no value above {largest << 8 | 255} of 65535, which would "
            "be nearly black: save it with 8 bits a channel or as 16-bit grayscale"
        )

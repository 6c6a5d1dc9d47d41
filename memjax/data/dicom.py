"""DICOM files as images: rescaled, windowed, upright in gray; nothing but pixels is read.

``pip install 'memjax[dicom]'`` brings pydicom. Of a grayscale file the modality transform (rescale
slope and intercept, or its table) is applied, then the first window (or VOI table); without one
that shows any of it, the file's least value is black and its largest is white, as MIMIC-CXR-JPG
was made. MONOCHROME1 is
inverted. Pixels at the padding value are black and count for no range.

References:
    DICOM PS3.3, C.7.6.3 (image pixels), C.11.1 and C.11.2 (modality and VOI transforms); Johnson
    et al. 2019, arXiv:1901.07042 (MIMIC-CXR-JPG: from the least to the largest value).
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

SUFFIXES: tuple[str, ...] = (".dcm", ".dicom", ".ima")
MAX_PIXELS = 40_000_000  # in float64; a mammogram has 14 million
BITS_STORED = (0x0028, 0x0101)  # a key of ``Image.info`` that no text of a PNG file can have
HEAD = 132  # bytes: a preamble of 128, and the mark
_MARK = b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NEEDED = ("Rows", "Columns", "BitsStored", "PhotometricInterpretation")
_GRAY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM."""
    return head[128:HEAD] == _MARK


def open_dicom(file: BinaryIO) -> Image.Image:
    """The image in a DICOM file, in ``L`` or ``RGB``; ``info[BITS_STORED]`` has its bits and notes.

    Raises:
        ValueError: pydicom, or what decodes the file's compression, is not installed; or the file
            is no single image. The message says which in a few words.
    """
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError as error:
        raise ValueError("DICOM needs pydicom: pip install 'memjax[dicom]'") from error
    if _DEFLATED in file.read(4096):
        raise ValueError("deflated DICOM is not read: unpack it with dcmconv +te")
    file.seek(0)
    data = pydicom.dcmread(file)
    _check(data)
    try:
        pixels = pixel_array(data)
    except (RuntimeError, NotImplementedError) as error:
        name = data.file_meta.TransferSyntaxUID.name
        raise ValueError(
            f"its compression, {name}, cannot be decoded: pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg, or unpack the file with gdcmconv --raw"
        ) from error
    kind = str(data.PhotometricInterpretation)
    bits = int(data.BitsStored)
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        pixels = apply_color_lut(pixels, data)[..., :3]
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if pixels.ndim == 3 and pixels.shape[-1] == 3 and pixels.dtype == np.uint8:
        image = Image.fromarray(pixels)
        image.info[BITS_STORED] = (str(bits), [])
        return image
    if pixels.ndim != 2 or kind not in _GRAY:
        raise ValueError(f"{kind} of {bits} bits is not read: save it as PNG")
    gray, how = _gray(pixels, data)
    notes = [f"read from DICOM, {how}"]
    if kind == "MONOCHROME1":
        notes.append("inverted (DICOM, MONOCHROME1)")
    image = Image.fromarray(gray)
    image.info[BITS_STORED] = (str(bits), notes)
    return image


def _check(data: Any) -> None:
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError("DICOM without an image")
    lacks = [name for name in _NEEDED if name not in data]
    if lacks:
        raise ValueError(f"damaged DICOM, without {', '.join(lacks)}")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"{frames} frames in one DICOM file: save each as an image")
    rows, columns = int(data.Rows), int(data.Columns)
    if rows * columns > MAX_PIXELS:
        raise ValueError(f"{columns}×{rows} pixels, more than {MAX_PIXELS:,}")


def _gray(pixels: np.ndarray, data: Any) -> tuple[np.ndarray, str]:
    """8 bits from black to white, and how they were found."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    padding = np.zeros(pixels.shape, bool)
    if (value := data.get("PixelPaddingValue")) is not None:
        ends = sorted((int(value), int(data.get("PixelPaddingRangeLimit", value))))
        padding = (pixels >= ends[0]) & (pixels <= ends[1])
        padding &= not padding.all()
    values = np.asarray(apply_modality_lut(pixels, data), np.float64)
    kept, window = values[~padding], _window(data)
    least, most, how = float(kept.min()), float(kept.max()), "least value to largest"
    if table := data.get("VOILUTSequence"):
        values = np.asarray(apply_voi_lut(values.astype(np.int64), data), np.float64)
        least, most, how = 0.0, 2.0 ** int(table[0].LUTDescriptor[2]) - 1, "by its table"
    elif window and (most <= window[0] or least >= window[1]):
        how = "whose window shows nothing, least value to largest"
    elif window:
        least, most, how = *window, "windowed"
    share = (values - least) / max(most - least, 1e-9)
    if how == "windowed" and data.get("VOILUTFunction") == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (share - 0.5)))
    share = share.clip(0, 1)
    if data.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    share[padding] = 0
    return (share * 255).round().astype(np.uint8), how


def _window(data: Any) -> tuple[float, float] | None:
    """The values that the first window shows as black and as white; None without a usable one."""
    center, width = _first(data.get("WindowCenter")), _first(data.get("WindowWidth"))
    if center is None or width is None or not np.isfinite([center, width]).all():
        return None
    if str(data.get("VOILUTFunction") or "LINEAR") == "LINEAR":
        center, width = center - 0.5, width - 1
    return (center - width / 2, center + width / 2) if width > 0 else None


def _first(value: Any) -> float | None:
    found = value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value
    return None if found in (None, "") else float(found)

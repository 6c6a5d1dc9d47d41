"""Handwritten digits that ship with scikit-learn: real images, one of them trained 100 times.

1,797 digits of 8×8 pixels and 17 gray levels. One class is represented by a single image that
stands many times among the training rows; the other classes keep what is not held out. Held-out
images of the repeated class exist too, and are never trained on.

A condition is the digit and, because ten prompts would be few to tell a rate from, how it is
written: ``Stroke`` (thin, medium, thick: thirds of the ink) and ``Slant`` (left, upright, right:
thirds of the direction in which the ink's mass leans).

References:
    Jeon et al., ICML 2025, arXiv:2412.04140, appendix C (class 3 many times, one 9 repeated);
    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int, UInt8
from PIL import Image

from memjax.data.records import Record, image_record

NUM_IMAGES = 1797
STROKES: tuple[str, ...] = ("thin", "medium", "thick")
SLANTS: tuple[str, ...] = ("left", "upright", "right")
_ADDRESS = "digits://scikit-learn/"


def read_digits(
    *,
    seed: int = 0,
    classes: Sequence[int] = tuple(range(10)),
    duplicated_class: int | None = 9,
    num_duplicated: int = 1,
    copies: int = 100,
    num_held_out: int = 40,
    most: int = 0,
    style: bool = True,
) -> tuple[list[Record], list[Record]]:
    """Divides the digits into training rows, one of them repeated, and held-out rows.

    Args:
        seed: Decides which images are held out and which one is repeated.
        classes: Digits that are used.
        duplicated_class: The digit represented by repeated images alone; None or −1 for none.
        num_duplicated: Number of such images.
        copies: How often each stands among the training rows.
        num_held_out: Held-out images a class.
        most: Most training images of any other class; 0 takes all.
        style: Whether stroke and slant are class labels beside the digit.

    Returns:
        Training and held-out records. Which images are held out depends on ``seed`` and the
        class alone.

    Raises:
        ValueError: A class is no digit, or a number does not fit.
    """
    _check(classes, duplicated_class, num_duplicated, copies, num_held_out, most)
    _, targets = _load()
    train: list[int] = []
    held: list[int] = []
    for digit in sorted(set(classes)):
        rows = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(targets == digit))
        held += np.sort(rows[:num_held_out]).tolist()
        rest = rows[num_held_out:]
        if digit == duplicated_class:
            train += np.repeat(rest[:num_duplicated], copies).tolist()
        else:
            train += np.sort(rest[: most or None]).tolist()
    return [_record(i, style) for i in train], [_record(i, style) for i in held]


def _check(classes, duplicated_class, num_duplicated, copies, num_held_out, most) -> None:
    wrong = [c for c in classes if not (isinstance(c, int) and 0 <= c <= 9)]
    if wrong or not classes:
        raise ValueError(f"digits.classes is {tuple(classes)}; expected digits from 0 to 9.")
    if duplicated_class not in (None, -1, *classes):
        raise ValueError(
            f"digits.duplicated_class is {duplicated_class}; expected one of digits.classes="
            f"{tuple(classes)}, or -1 for none."
        )
    ranges = {"num_duplicated": (num_duplicated, 1, 100), "copies": (copies, 1, 100_000)}
    ranges |= {"num_held_out": (num_held_out, 0, 120), "most": (most, 0, NUM_IMAGES)}
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ValueError(f"digits.{name} is {value}; expected {low} to {high}.")
    if num_duplicated + num_held_out > 170:
        raise ValueError(
            f"digits.num_duplicated={num_duplicated} and digits.num_held_out={num_held_out} are "
            "more than the 170 images that every class has; take fewer."
        )


def open_image(address: str) -> Image.Image:
    """The image behind ``digits://scikit-learn/12``: 8×8, gray levels spread to 0…255.

    Raises:
        ValueError: There is no such image.
    """
    number = address.removeprefix(_ADDRESS)
    if not number.isdigit() or int(number) >= NUM_IMAGES:
        raise ValueError(f"no digit of that number; expected 0 to {NUM_IMAGES - 1}")
    pixels, _ = _load()
    return Image.fromarray(pixels[int(number)])


@functools.lru_cache(maxsize=1)
def _load() -> tuple[UInt8[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


def _record(number: int, style: bool) -> Record:
    _, targets = _load()
    classes = [("Digit", str(targets[number]))]
    if style:
        strokes, slants = _styles()
        classes += [("Stroke", STROKES[strokes[number]]), ("Slant", SLANTS[slants[number]])]
    return image_record(f"{_ADDRESS}{number}", f"digit-{number}", classes=classes)


@functools.lru_cache(maxsize=1)
def _styles() -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    pixels, _ = _load()
    return _thirds(ink(pixels)), _thirds(slant(pixels))


def _thirds(values: Float64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values).astype(np.int64)


def ink(images: UInt8[np.ndarray, "n h w"]) -> Float64[np.ndarray, " n"]:
    """Mean gray level from 0 (paper) to 1."""
    return images.astype(np.float64).mean(axis=(1, 2)) / 255


def slant(images: UInt8[np.ndarray, "n h w"]) -> Float64[np.ndarray, " n"]:
    """``−cov(x, y) / var(y)`` of the ink, y downwards: positive where the top leans right."""
    mass = images.astype(np.float64)
    mass /= np.maximum(mass.sum(axis=(1, 2), keepdims=True), 1e-12)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]].astype(np.float64)
    dx = x - (mass * x).sum(axis=(1, 2), keepdims=True)
    dy = y - (mass * y).sum(axis=(1, 2), keepdims=True)
    variance = np.maximum((mass * dy * dy).sum(axis=(1, 2)), 1e-12)
    return -(mass * dx * dy).sum(axis=(1, 2)) / variance

"""A small raster font for the codes burned into a phantom's corner."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

# Five rows of three pixels, each row an octal digit.
_FONT = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711",
    "5": "74717", "6": "74757", "7": "71122", "8": "75757", "9": "75717",
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647",
    "F": "74644", "G": "34553", "H": "55755", "J": "11152", "K": "55655",
    "L": "44447", "M": "57755", "N": "65555", "P": "65644", "Q": "25573",
    "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552",
    "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", "I": "72227",
    "O": "25552", " ": "00000",
}  # fmt: skip


def glyph(letter: str) -> Float32[np.ndarray, "5 3"]:
    """One letter as 5 rows of 3 pixels.

    Raises:
        ValueError: The font has capital letters, digits and the space only.
    """
    rows = _FONT.get(letter)
    if rows is None:
        raise ValueError(f"The marker letter {letter!r} cannot be drawn; use A-Z, 0-9 or space.")
    return np.array([[int(r) >> b & 1 for b in (2, 1, 0)] for r in rows], np.float32)


@functools.lru_cache(maxsize=4096)
def _line(text: str) -> Float32[np.ndarray, "7 w"]:
    columns = [np.pad(glyph(letter), ((1, 1), (0, 1))) for letter in text]
    return np.pad(np.concatenate(columns, 1), ((0, 0), (1, 0)))


def stamp(markers: Sequence[str], size: int, scale: int = 1) -> Float32[np.ndarray, "h w"]:
    """The codes as a bright-on-dark label, one code a line; each letter 3 by 5 pixels at 64²."""
    lines = [_line(text) for text in markers]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]))) for line in lines]
    block = np.concatenate([padded[0], *(line[1:] for line in padded[1:])], 0)
    zoom = scale * max(1, round(size / 64))
    return np.kron(block, np.ones((zoom, zoom), np.float32))

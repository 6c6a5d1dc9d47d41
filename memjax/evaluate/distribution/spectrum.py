"""Power spectra of images: over all directions, and at the frequencies of a grid of patches.

Power of samples over power of real images, frequency by frequency, shows what pixels hide: a ratio
far above one at multiples of ``1/patch`` is the grid of a network's patches.

References:
    Durall et al. 2020, arXiv 2003.01826, §3 (radial average); Odena et al. 2016, Distill,
    doi 10.23915/distill.00003 (checkerboards of upsampling).
"""

import numpy as np
from jaxtyping import Bool, Float


def power_spectrum(images: Float[np.ndarray, "n s s c"]) -> Float[np.ndarray, "s s"]:
    """Returns ``mean |F(w · (x − x̄))|²`` over images and channels, frequency 0 first.

    ``w`` is a Hann window, since images do not continue at their edges, and ``x̄`` each image's
    weighted mean.

    Raises:
        ValueError: If the images are not square.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"images have the shape {images.shape}; expected square ones, (n, s, s, c)."
        )
    window = np.hanning(images.shape[1] + 1)[:-1]  # periodic: a wave reaches one neighbor a side
    window = np.outer(window, window)[None, :, :, None]
    x = images.astype(np.float64)
    x = (x - (x * window).sum((1, 2), keepdims=True) / window.sum()) * window
    return np.mean(np.abs(np.fft.fft2(x, axes=(1, 2))) ** 2, axis=(0, 3))


def radial_power(power: Float[np.ndarray, "s s"]) -> Float[np.ndarray, " k"]:
    """Returns the mean power of each ring of 1, 2, … s/2 cycles per image."""
    size = len(power)
    frequencies = np.fft.fftfreq(size) * size
    ring = np.rint(np.hypot(frequencies[:, None], frequencies[None, :])).astype(int).ravel()
    means = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    return means[1 : size // 2 + 1]


def patch_power(power: Float[np.ndarray, "s s"], patch: int) -> float:
    """Returns the power that repeats with every patch: at multiples of ``1/patch``, but 0.

    Neighboring frequencies are included, over which the window spreads each one.

    Raises:
        ValueError: If patches of this side do not fill the images.
    """
    size = len(power)
    if not 2 <= patch <= size // 4 or size % patch:
        raise ValueError(f"patch is {patch}; expected a divisor of {size} from 2 to {size // 4}.")
    return float(power[_repeats(size, patch)].sum())


def _repeats(size: int, patch: int) -> Bool[np.ndarray, "s s"]:
    cycles, step = np.arange(size), size // patch
    multiple = np.isin(cycles % step, (0, 1, step - 1))
    lowest = np.isin(cycles, (0, 1, size - 1))
    return np.outer(multiple, multiple) & ~np.outer(lowest, lowest)

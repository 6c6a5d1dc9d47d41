"""Generated against real images as distributions, over any features, with a background."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from memjax.evaluate.distribution.authenticity import (
    auth_pct,
    c_t,
    nearest_percentiles,
    percentile_ranks,
)
from memjax.evaluate.distribution.frechet import fd, fd_infinity, feature_pair, kid
from memjax.evaluate.distribution.prdc import prdc
from memjax.evaluate.similarity.knn import knn

__all__ = [
    "auth_pct",
    "c_t",
    "distribution_report",
    "fd",
    "fd_infinity",
    "kid",
    "nearest_percentiles",
    "prdc",
]

_NEAR = 5.0  # percentile
_ENOUGH_KID = 1000
_ENOUGH_LINE = 10000
_ENOUGH_BACKGROUND = 100


def distribution_report(
    train: ArrayLike,
    held_out: ArrayLike,
    generated: ArrayLike,
    *,
    features: str = "features",
    k: int = 5,
    seed: int = 0,
    real: str = "held-out",
) -> dict[str, Any]:
    """Returns every distribution metric of generated against training rows, and its background.

    Args:
        train: ``[n_t, d]`` features of the training images.
        held_out: ``[n_h, d]`` features of real images that were not trained on.
        generated: ``[n_g, d]`` features.
        features: What the features are; stands in the output.
        k: Neighbors of precision, recall, density and coverage.
        seed: Of draws and k-means.
        real: What ``held_out`` is called in the warnings.

    Returns:
        ``features, fd, fd_infinity, kid, kid_sd, precision, recall, density, coverage, auth_pct,
        c_t, percentile_below_5`` (share of rows nearer to a training row than 95 % of held-out rows
        are), ``n_train, n_held_out, n_generated``, ``warnings`` (sentences) and ``background``: the
        same metrics with the held-out rows in the place of the generated ones. Its ``c_t`` compares
        one half of the held-out rows with the other. A metric that cannot be computed is None, and
        a warning says why.

    Raises:
        ValueError: As :func:`fd`.

    References:
        Stein et al., arXiv 2306.04675: on CIFAR-10 neither AuthPct nor C_T finds memorization
        reliably; read them next to the nearest training images.
    """
    t, g = feature_pair(train, generated)
    h = feature_pair(t, held_out)[1]
    warnings = _size_warnings(len(t), len(h), len(g), t.shape[1], real)
    half = np.random.default_rng(seed).permutation(len(h))
    one, other = h[half[: len(h) // 2]], h[half[len(h) // 2 :]]
    near = knn(h, t, 1)[0][:, 0]
    row = _metrics(t, g, k, seed, warnings, "generated")
    row["c_t"] = _attempt(lambda: c_t(t, h, g, seed=seed), warnings, "C_T")
    row["percentile_below_5"] = _share_near(percentile_ranks(knn(g, t, 1)[0][:, 0], near))
    background = _metrics(t, h, k, seed, warnings, real)
    background["c_t"] = _attempt(
        lambda: c_t(t, one, other, seed=seed), warnings, f"C_T of {real} rows"
    )
    background["percentile_below_5"] = _share_near(_ranks_among_others(near))
    sizes = {"n_train": len(t), "n_held_out": len(h), "n_generated": len(g)}
    return {
        "features": features,
        **row,
        **sizes,
        "warnings": list(dict.fromkeys(warnings)),
        "background": {**background, "n_train": len(t), "n_generated": len(h)},
    }


def _metrics(
    t: np.ndarray, g: np.ndarray, k: int, seed: int, warnings: list[str], who: str
) -> dict[str, Any]:
    distance = kid(t, g, seed=seed)
    line = _attempt(lambda: fd_infinity(t, g, seed=seed).value, warnings, f"FD∞ of {who} rows")
    shares = _attempt(lambda: prdc(t, g, k)._asdict(), warnings, f"precision of {who} rows")
    return {
        "fd": fd(t, g),
        "fd_infinity": line,
        "kid": distance.value,
        "kid_sd": distance.sd,
        **(shares or dict.fromkeys(("precision", "recall", "density", "coverage"))),
        "auth_pct": auth_pct(t, g),
    }


def _attempt(compute: Callable[[], Any], warnings: list[str], what: str) -> Any:
    """The metric, or None and a sentence."""
    try:
        return compute()
    except ValueError as error:
        warnings.append(f"{what} is missing: {error}")
        return None


def _share_near(percentiles: np.ndarray) -> float:
    return float(np.mean(percentiles < _NEAR))


def _ranks_among_others(values: np.ndarray) -> np.ndarray:
    """Percentile of each value among the others: its own half is taken out."""
    n = len(values)
    return (percentile_ranks(values, values) * n - 50.0) / (n - 1)


def _size_warnings(
    num_train: int, num_held: int, num_made: int, width: int, real: str
) -> list[str]:
    said = []
    for num, who in ((num_train, "training"), (num_held, real), (num_made, "generated")):
        if num < width:
            said.append(
                f"{num} {who} images for {width} feature dimensions: their covariance is "
                f"singular and FD is biased upwards; use {width} or more, or read KID."
            )
    smallest = min(num_train, num_held, num_made)
    if smallest < _ENOUGH_KID:
        said.append(
            f"the smallest set has {smallest} images: KID's subsets hold that many instead of "
            f"{_ENOUGH_KID}, and its spread over subsets is too small."
        )
    if min(num_held, num_made) < _ENOUGH_LINE:
        said.append(
            f"FD∞ is extrapolated from at most {num_made} generated and {num_held} {real} "
            f"images, fewer than {_ENOUGH_LINE}: a rough figure."
        )
    if num_held < _ENOUGH_BACKGROUND:
        said.append(
            f"{num_held} {real} images give coarse percentiles: a 5th percentile needs "
            f"{_ENOUGH_BACKGROUND} or more."
        )
    if num_held != num_made:
        said.append(
            f"FD falls with the number of images, and {num_made} generated are compared with "
            f"{num_held} {real} ones: compare KID or FD∞."
        )
    return said

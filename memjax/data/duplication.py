"""Duplicates: planted by sampling weights or repeats, and found by content.

References:
    Somepalli et al., "Understanding and Mitigating Copying in Diffusion Models",
    arXiv:2305.20086, section 4 (the ``dup_both`` sampler).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped


def duplicate_weights(
    seed: int, num_rows: int, fraction: float = 0.05, factor: float = 5.0
) -> Float64[np.ndarray, " n"]:
    """Sampling weight of each row: ``factor`` for ⌊fraction · n⌋ random rows, 1 for the others.

    Raises:
        ValueError: ``fraction`` outside [0, 1] or ``factor`` not above zero.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the rows from 0 to 1.")
    if not factor > 0:
        raise ValueError(f"factor is {factor}; expected a weight above zero.")
    weights = np.ones(num_rows, np.float64)
    rng = np.random.default_rng([seed, num_rows])
    weights[rng.choice(num_rows, int(fraction * num_rows), replace=False)] = factor
    return weights


def cumulative(weights: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Running sum of ``p = w / Σ w``, ending in exactly 1.

    Raises:
        ValueError: A weight is negative or not finite, or none is above zero.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be one finite number of at least zero per row.")
    if not weights.sum() > 0:
        raise ValueError("All sampling weights are zero; give at least one row a weight above it.")
    total = np.cumsum(weights)
    return total / total[-1]


def sample_indices(
    seed: int, weights: Float64[np.ndarray, " n"], num: int
) -> Int[np.ndarray, " num"]:
    """``num`` rows drawn with replacement, row i with probability ``w_i / Σ w``."""
    draws = np.random.default_rng(seed).random(num)
    return np.searchsorted(cumulative(weights), draws, side="right").astype(np.int64)


def repeat_indices(repeats: Sequence[int] | Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Row i listed ``repeats[i]`` times: one epoch of a data set with planted duplicates.

    Raises:
        ValueError: A negative count, or nothing left to read.
    """
    counts = np.asarray(repeats)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise ValueError("repeats must be one whole number of at least zero per row.")
    if not counts.sum():
        raise ValueError("All repeats are zero; give at least one row a repeat of one.")
    return np.repeat(np.arange(len(counts)), counts)


def content_groups(images: Shaped[np.ndarray, "n *d"]) -> Int[np.ndarray, " n"]:
    """The same id for rows of identical content; ids count from 0 in order of appearance."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in images)
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests], np.int64)


def duplicated_rows(groups: Int[np.ndarray, " n"], least: int = 2) -> Bool[np.ndarray, " n"]:
    """True where a row's group has at least ``least`` members."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[inverse] >= least


def first_of_group(groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " g"]:
    """The first row of every group, in order of appearance."""
    return np.sort(np.unique(groups, return_index=True)[1])

"""How well a score tells memorized prompts from others: ROC, AUC, TPR at a small FPR."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.bootstrap import (
    Interval,
    bootstrap_interval,
    difference_interval,
    rate_interval,
)

__all__ = [
    "Interval",
    "RocCurve",
    "auc",
    "bootstrap_interval",
    "detection_summary",
    "difference_interval",
    "rate_interval",
    "roc_curve",
    "tpr_at_fpr",
]


class RocCurve(NamedTuple):
    """Operating points from (0, 0) to (1, 1); rows scoring ≥ ``thresholds[i]`` are called."""

    fpr: Float[np.ndarray, " points"]
    tpr: Float[np.ndarray, " points"]
    thresholds: Float[np.ndarray, " points"]


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> RocCurve:
    """Returns every operating point; tied scores are called together.

    Args:
        scores: ``[N]``, higher = more memorized.
        labels: ``[N]``, True = memorized.

    Raises:
        ValueError: If a score is NaN or one of the two kinds is missing.
    """
    s, y = _check(scores, labels)
    fpr, tpr = _operating_points(s, y, None)
    thresholds = np.concatenate([[np.inf], np.unique(s)[::-1]])
    return RocCurve(fpr, tpr, thresholds)


def auc(
    scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> Float[np.ndarray, " *r"]:
    """Returns P(memorized score > other score) + ½ P(equal): the area under the ROC curve.

    Args:
        scores: ``[N]``, higher = more memorized.
        labels: ``[N]``, True = memorized.
        weights: Optional ``[R, N]``: ``R`` weighted versions at once (bootstrap replicates).

    Raises:
        ValueError: As :func:`roc_curve`.
    """
    fpr, tpr = _operating_points(*_check(scores, labels), weights)
    return np.sum(np.diff(fpr) * (tpr[..., 1:] + tpr[..., :-1]) / 2, axis=-1)


def tpr_at_fpr(
    scores: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    max_fpr: float = 0.01,
) -> Float[np.ndarray, " *r"]:
    """Returns the largest TPR among operating points with FPR ≤ ``max_fpr``.

    Args:
        scores: ``[N]``, higher = more memorized.
        labels: ``[N]``, True = memorized.
        weights: Optional ``[R, N]``, as in :func:`auc`.
        max_fpr: Share of the others that may be called by mistake.

    .. note:: No interpolation. With fewer than ``1 / max_fpr`` others this is the TPR at no false
        alarm at all. Published code differs here (strict <, or the nearest FPR, even above 1 %).
    """
    fpr, tpr = _operating_points(*_check(scores, labels), weights)
    return np.max(np.where(fpr <= max_fpr + 1e-12, tpr, 0.0), axis=-1)


def detection_summary(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    max_fpr: float = 0.01,
) -> dict[str, Any]:
    """Returns AUC and TPR at ``max_fpr`` with 95 % intervals, and how many prompts they rest on.

    Args:
        scores: ``[N]``, higher = more memorized.
        labels: ``[N]``, True = memorized.
        clusters: The prompt of each row; None: every row is a prompt.
        n: Bootstrap replicates.
        seed: Of the bootstrap.
        max_fpr: 0.01 by default (the keys' names say 1 %).

    Returns:
        ``auc, auc_low, auc_high, tpr_at_1pct_fpr, tpr_low, tpr_high, num_memorized, num_other``;
        the two counts are of clusters.
    """
    s, y = _check(scores, labels)
    ids = np.arange(len(s)) if clusters is None else np.asarray(clusters)
    tpr_fn = functools.partial(tpr_at_fpr, max_fpr=max_fpr)
    area = bootstrap_interval(auc, s, y, ids, n, seed)
    rate = bootstrap_interval(tpr_fn, s, y, ids, n, seed)
    return {
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "tpr_at_1pct_fpr": rate.value,
        "tpr_low": rate.low,
        "tpr_high": rate.high,
        "num_memorized": int(np.unique(ids[y]).size),
        "num_other": int(np.unique(ids[~y]).size),
    }


def _check(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    if s.ndim != 1 or s.shape != y.shape:
        raise ValueError(
            f"scores have shape {s.shape} and labels {y.shape}, expected one of each a prompt; "
            "average over generations and steps first."
        )
    if np.isnan(s).any():
        raise ValueError(
            f"score {int(np.flatnonzero(np.isnan(s))[0])} is NaN; leave failed prompts out first."
        )
    if y.all() or not y.any():
        raise ValueError(
            f"{int(y.sum())} of {y.size} prompts are memorized, expected both kinds; "
            "add prompts of the other kind."
        )
    return s, y


def _operating_points(s: np.ndarray, y: np.ndarray, weights: ArrayLike | None):
    """FPR and TPR ``[..., points]`` at every distinct score, highest first, (0, 0) in front."""
    w = np.ones(s.size) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-s, kind="stable")
    last = np.append(np.diff(s[order]) != 0, True)  # the last row of each run of equal scores
    return tuple(_cumulative(w[..., order] * side[order], last) for side in (~y, y))


def _cumulative(mass: np.ndarray, last: np.ndarray) -> np.ndarray:
    total = np.cumsum(mass, axis=-1)[..., last]
    share = total / total[..., -1:]
    return np.concatenate([np.zeros((*share.shape[:-1], 1)), share], axis=-1)

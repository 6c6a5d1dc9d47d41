"""Does the score find copied images, and does its AUC depend on who the negatives are?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.bootstrap import cluster_weights
from memjax.evaluate.statistics.roc import auc, detection_summary, tpr_at_fpr

ALL_FAMILIES = "all"
_CHUNK_REPLICATES = 250
_FIGURES = {
    auc: ("auc_copied", "auc_copied_low", "auc_copied_high"),
    tpr_at_fpr: ("tpr_at_1pct_fpr", "tpr_low", "tpr_high"),
}


def copied_summary(
    scores: ArrayLike,
    copied: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Returns AUC and TPR at 1 % FPR of a score for the label "this image is a copy".

    Unlike "this prompt is memorized", the label differs within a prompt, so whole prompts are
    resampled without stratifying; replicates in which all images are copies, or none, are
    dropped and counted.

    Args:
        scores: ``[N]``, e.g. the magnitude of each generated image.
        copied: ``[N]``, True = copied.
        clusters: The prompt of each row; None: every row its own.
        n: Bootstrap replicates.
        seed: Of the bootstrap.
        level: Coverage.

    Returns:
        ``auc_copied, auc_copied_low, auc_copied_high, tpr_at_1pct_fpr, tpr_low, tpr_high,
        num_copied, num_pictures, dropped_replicates``. All but the counts are None where every
        image is a copy or none is.

    Raises:
        ValueError: If lengths differ or a score is not finite.
    """
    s, y = _check(scores, copied)
    found: dict[str, Any] = {"num_copied": int(y.sum()), "num_pictures": len(y)}
    if y.all() or not y.any():
        empty = dict.fromkeys(key for keys in _FIGURES.values() for key in keys)
        return {**empty, **found, "dropped_replicates": n}
    weights = cluster_weights(clusters, len(s), n, seed)
    both = (weights[:, y].sum(axis=1) > 0) & (weights[:, ~y].sum(axis=1) > 0)
    tail = 50 * (1 - level)
    for fn, keys in _FIGURES.items():
        drawn = _replicates(fn, s, y, weights[both])
        low, high = np.percentile(drawn, [tail, 100 - tail]) if drawn.size else (np.nan, np.nan)
        values = (float(np.squeeze(fn(s, y))), _json(low), _json(high))
        found |= dict(zip(keys, values, strict=True))
    return {**found, "dropped_replicates": int(n - both.sum())}


def family_summary(
    scores: ArrayLike,
    memorized: ArrayLike,
    family: ArrayLike,
    names: Mapping[str, str] | None = None,
    *,
    clusters: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns AUC and TPR at 1 % FPR against each family of negatives, and against all together.

    Args:
        scores: ``[N]``, higher = more memorized.
        memorized: ``[N]``, True = memorized; these rows stand against every family.
        family: ``[N]``, the family of each negative (what it says of memorized rows is ignored).
        names: Family → title, in the order wanted; None: every family found, sorted.
        clusters: The prompt of each row; None: every row is a prompt.
        n: Bootstrap replicates.
        seed: Of the bootstrap.

    Returns:
        One row a family and a last one named ``all``: ``name, title, num`` (prompts in the family),
        ``num_memorized`` and the figures of
        :func:`~memjax.evaluate.statistics.roc.detection_summary`.

    Raises:
        ValueError: If a named family has no rows, or as
            :func:`~memjax.evaluate.statistics.roc.detection_summary`.
    """
    s, y = _check(scores, memorized)
    of_row = np.asarray(family)
    if of_row.shape != y.shape:
        raise ValueError(f"{of_row.size} families were given for {y.size} rows; give one a row.")
    present = np.unique(of_row[~y]).tolist()
    titles = dict(names) if names is not None else {name: name for name in present}
    missing = [name for name in titles if name not in present]
    if missing:
        raise ValueError(
            f"no negative belongs to family {missing[0]!r}, expected some of "
            f"{', '.join(map(repr, present))}; leave it out of names."
        )
    ids = np.arange(len(s)) if clusters is None else np.asarray(clusters)
    chosen = {name: y | (of_row == name) for name in titles}
    chosen[ALL_FAMILIES] = y | np.isin(of_row, list(titles))
    rows = []
    for name, keep in chosen.items():
        figures = detection_summary(s[keep], y[keep], ids[keep], n=n, seed=seed)
        num = figures.pop("num_other")
        title = titles.get(name, "All together")
        rows.append({"name": name, "title": title, "num": num, **figures})
    return rows


def _replicates(fn, s: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    starts = range(0, len(weights), _CHUNK_REPLICATES)
    parts = [fn(s, y, weights[i : i + _CHUNK_REPLICATES]) for i in starts]
    return np.concatenate([np.zeros(0), *parts])


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    if s.ndim != 1 or s.shape != y.shape or not s.size:
        raise ValueError(
            f"scores have shape {s.shape} and labels {y.shape}, expected one of each an image."
        )
    if not np.isfinite(s).all():
        raise ValueError(
            f"score {int(np.flatnonzero(~np.isfinite(s))[0])} is not finite; "
            "leave failed images out first."
        )
    return s, y

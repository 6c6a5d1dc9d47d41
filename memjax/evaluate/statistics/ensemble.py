"""Several scores of the same prompts as one, by cross-validated logistic regression."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Ensemble(NamedTuple):
    """Out-of-fold scores, and what they were made of.

    Attributes:
        scores: Log odds of each row from a fit that has not seen its group; higher = more
            memorized.
        fold: The fold each row was left out in.
        weights: Of each detector in each fold, for scores of mean 0 and variance 1.
        names: The detectors, in the order of the weights.
    """

    scores: Float[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "folds k"]
    names: tuple[str, ...]


def ensemble(
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
) -> Ensemble:
    """Returns one score a row out of several detectors', each from a fit on other groups.

    A logistic regression on standardized scores, with an l2 penalty; scaling and weights come from
    the other folds only. Rows of one group (a prompt, a patient) are in one fold.

    Args:
        scores: Detector → ``[N]``.
        labels: ``[N]``, True = memorized.
        groups: ``[N]``, what is kept together; None: every row is a group.
        folds: How many parts; each has about the same share of memorized rows.
        strength: Inverse of the penalty's weight, scikit-learn's ``C``.
        seed: Of the folds.

    Raises:
        ValueError: If a score is not finite, a length does not fit, or there are too few groups.

    .. note:: Folds are stratified and both kinds weigh the same in each fit, so that log odds of
        different folds compare: otherwise a fold with more memorized rows leaves fewer to the fit
        that scores it, whose log odds are lower throughout. A little of that remains: with few
        rows, scores that say nothing have an AUC somewhat below 0.5.
    """
    names = tuple(scores)
    rows = [np.asarray(scores[name], np.float64) for name in names]
    y = np.asarray(labels).astype(bool)
    ids = np.arange(y.size) if groups is None else np.asarray(groups)
    _check(names, rows, y, ids, folds, strength)
    x = np.stack(rows, axis=1)
    found, fold = np.empty(y.size), np.empty(y.size, np.int64)
    weights = np.empty((folds, len(names)))
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (known, left) in enumerate(parts.split(x, y, ids)):
        if y[known].all() or not y[known].any():
            raise ValueError(
                f"fold {number} of {folds} leaves one kind of row to the fit, expected both: give "
                "fewer folds, or another seed."
            )
        fit = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        ).fit(x[known], y[known])
        found[left], fold[left] = fit.decision_function(x[left]), number
        weights[number] = fit[-1].coef_[0]
    return Ensemble(found, fold, weights, names)


def _check(names, rows, y, ids, folds: int, strength: float) -> None:
    if not names:
        raise ValueError("ensemble got no detector, expected the scores of one or more.")
    if y.ndim != 1 or ids.shape != y.shape:
        raise ValueError(
            f"labels have shape {y.shape} and groups {ids.shape}, expected one of each a row."
        )
    for name, of in zip(names, rows, strict=True):
        if of.shape != y.shape:
            raise ValueError(
                f"the scores of {name} have shape {of.shape}, expected {y.shape} as the labels: "
                "average over generations and steps first."
            )
        if not np.isfinite(of).all():
            row = int(np.flatnonzero(~np.isfinite(of))[0])
            raise ValueError(
                f"score {row} of {name} is {of[row]}, expected a number: leave failed rows out."
            )
    if not strength > 0:
        raise ValueError(f"strength is {strength}, expected a number above 0.")
    kinds = [np.unique(ids[y]).size, np.unique(ids[~y]).size]
    if not 2 <= folds <= min(kinds):
        raise ValueError(
            f"folds is {folds}, expected between 2 and the {min(kinds)} groups of the rarer kind: "
            "give fewer folds or more rows."
        )

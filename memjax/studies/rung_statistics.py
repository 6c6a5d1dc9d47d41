"""The magnitude against one rung of the ladder: correlation, given class frequency, and AUC."""

from typing import Any

import numpy as np

from memjax.evaluate.similarity.ladder import RungResult
from memjax.evaluate.statistics.bootstrap import with_interval
from memjax.evaluate.statistics.correlation import (
    correlation_interval,
    partial_correlation_interval,
)
from memjax.studies.validation_scores import copied_summary

_REPLICATES = 1000  # nine rungs of four figures each; the ends move by a few thousandths


def rung_statistics(
    rung: RungResult, magnitude: np.ndarray, frequency: np.ndarray, clusters: np.ndarray
) -> dict[str, Any]:
    """Returns correlation, partial correlation and AUC of magnitude against one rung.

    Args:
        rung: Its similarity, one an image.
        magnitude: RMS magnitude of each image's trajectory.
        frequency: Class frequency of each image's prompt.
        clusters: Prompt of each image.
    """
    out: dict[str, Any] = {"num_pictures": len(magnitude)}
    known = np.isfinite(rung.similarity)
    x, y, of = magnitude[known], rung.similarity[known], clusters[known]
    log = np.log(frequency[known])
    for method in ("spearman", "pearson"):
        out |= with_interval(method, correlation_interval(x, y, of, method=method, n=_REPLICATES))
    if np.ptp(log) > 0:
        partial = partial_correlation_interval(x, y, log, of, method="spearman", n=_REPLICATES)
        out |= with_interval("partial", partial)
    out |= copied_summary(magnitude, rung.is_copy, clusters, n=_REPLICATES)
    return out

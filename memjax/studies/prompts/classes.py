"""One class an image: what thresholds are calibrated within, and class frequencies."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from memjax.data.records import FINDINGS, POSITIVE, Record

NONE = "none of them"


def main_classes(
    records: Sequence[Record], reference: Sequence[Record]
) -> Shaped[np.ndarray, " n"]:
    """Returns one class per record: its class label, or its most common positive finding.

    A film shows several findings; the one that is most common among ``reference`` makes classes
    that are large enough to calibrate a threshold in.

    Args:
        records: Whose class is asked.
        reference: The training records, which decide what is common.
    """
    common = Counter(name for record in reference for name in _candidates(record))
    return np.asarray(
        [max(_candidates(r), key=lambda n: (common[n], n), default=NONE) for r in records]
    )


def _candidates(record: Record) -> list[str]:
    if record.classes:
        name, value = record.classes[0]
        return [f"{name}: {value}"]
    return [f for f, state in zip(FINDINGS, record.findings, strict=True) if state == POSITIVE]


def class_frequency(
    classes: Shaped[np.ndarray, " n"], reference: Shaped[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """Returns how large a share of the reference has each record's class; never 0."""
    counts = Counter(reference.tolist())
    return np.asarray([max(counts[c], 1) / max(len(reference), 1) for c in classes.tolist()])

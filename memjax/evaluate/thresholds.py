"""From which similarity a picture is a copy: a percentile of held-out pictures, per class.

References:
    Dar et al., arXiv 2402.01054, methods (the 95th percentile of validation pictures).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

PERCENTILE = 95.0
MIN_OF_CLASS = 20


class Thresholds(NamedTuple):
    """A percentile of the background, for all held-out pictures and for each class.

    Attributes:
        pooled: Of all held-out pictures.
        of_class: Of each class with at least 20 held-out pictures.
        num_held_out: How many they are fitted on.
    """

    pooled: float
    of_class: dict[Any, float]
    num_held_out: int

    def of(self, strata: ArrayLike | None, count: int) -> Float[np.ndarray, " n"]:
        """Returns each row's threshold: its class's own, else the pooled one."""
        if strata is None:
            return np.full(count, self.pooled)
        named = np.asarray(strata).tolist()
        return np.array([self.of_class.get(name, self.pooled) for name in named])

    def phrase(self, per_class: bool) -> str:
        """Returns the rule in words."""
        which = "held-out pictures"
        if per_class and self.of_class:
            which += f" of its class (all, for classes with fewer than {MIN_OF_CLASS})"
        few = "" if self.num_held_out >= MIN_OF_CLASS else ", too few to trust"
        return (
            f"more similar than {PERCENTILE:g} % of {which} are to theirs "
            f"({self.num_held_out} held out{few})"
        )


def fit_thresholds(
    background: Float[np.ndarray, " m"],
    strata: ArrayLike | None = None,
    *,
    percentile: float = PERCENTILE,
) -> Thresholds:
    """Fits the pooled threshold and one for each class with at least 20 held-out pictures.

    Args:
        background: Similarity of held-out pictures to their nearest training picture.
        strata: Class of each.
        percentile: In percent.

    Raises:
        ValueError: If no held-out picture has an eligible training picture.
    """
    usable = np.isfinite(background)
    if not usable.any():
        raise ValueError(
            f"none of {len(background)} held-out pictures has a training picture of another "
            "patient, expected at least one; hold out other patients."
        )
    of_class = {}
    if strata is not None:
        names = np.asarray(strata)
        for name in np.unique(names[usable]).tolist():
            own = background[usable & (names == name)]
            if len(own) >= MIN_OF_CLASS:
                of_class[name] = float(np.percentile(own, percentile))
    pooled = float(np.percentile(background[usable], percentile))
    return Thresholds(pooled, of_class, int(usable.sum()))

"""Are generated images nearer to the training images than real images are?"""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from memjax.evaluate.distribution.frechet import feature_pair
from memjax.evaluate.similarity.knn import knn

_MAX_DIMENSIONS = 64
_MIN_GENERATED = 20  # in a cell, for its comparison to count


def auth_pct(train: ArrayLike, generated: ArrayLike) -> float:
    """Returns the percentage of generated rows that are authentic.

    A row is authentic where its nearest training row ``j`` has another training row nearer than it:
    ``min_{i ≠ j} ‖t_j − t_i‖ < ‖g − t_j‖``. Copies of training rows give 0.

    Args:
        train: ``[n, d]`` features.
        generated: ``[m, d]`` features.

    .. note:: Some published code subtracts 50. With exact duplicates in ``train`` a noisy copy of
        one counts as authentic: pass the rows without duplicates.

    Raises:
        ValueError: As :func:`~.frechet.fd`.

    References:
        arXiv 2102.08921, section 4.2.
    """
    t, g = feature_pair(train, generated)
    distance, index = knn(g, t, 1)
    nearest, row = np.unique(index[:, 0], return_inverse=True)
    own = _leave_one_out(t, nearest)
    return float(100.0 * np.mean(own[row.ravel()] < distance[:, 0]))


def _leave_one_out(train: np.ndarray, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """Distance of each chosen training row to the nearest other one."""
    own = np.arange(len(train))
    return knn(train[rows], train, 1, exclude_groups=(own[rows], own))[0][:, 0]


def c_t(
    train: ArrayLike,
    test: ArrayLike,
    generated: ArrayLike,
    *,
    num_cells: int = 3,
    seed: int = 0,
) -> float:
    """Returns Meehan et al.'s data-copying statistic: far below 0 = copying, above = under-fitting.

    Training rows are cut into cells by k-means (after a projection on 64 principal components of
    ``train`` where there are more dimensions). In each cell ``Z`` compares the distances to the
    cell's nearest training row of generated rows (``m``) with those of test rows (``n``):
    ``Z = (U − (nm/2 − ½)) / √(nm(n + m + 1)/12)``, ``U`` the number of pairs in which the generated
    row is farther. ``C_T`` is the mean of ``Z`` weighted by the cell's share of the test rows, over
    cells with at least 20 generated rows.

    Args:
        train: ``[n_t, d]`` features.
        test: ``[n, d]`` features of real images that were not trained on.
        generated: ``[m, d]`` features.
        num_cells: Cells.
        seed: Of k-means.

    Raises:
        ValueError: If a cell has no test row, or no cell has 20 generated rows.

    References:
        arXiv 2004.05675, section 4.
    """
    t, p = feature_pair(train, test)
    q = feature_pair(t, generated)[1]
    if len(t) < num_cells:
        raise ValueError(f"{len(t)} training rows cannot be cut into {num_cells} cells; add rows.")
    t, p, q = _project(t, p, q)
    with threadpool_limits(1):  # three cells: threads would wait for each other more than work
        cells = KMeans(num_cells, n_init=10, random_state=seed).fit(t)
        of_t, of_p, of_q = cells.labels_, cells.predict(p), cells.predict(q)
    scores, shares = [], []
    for cell in range(num_cells):
        tested, made = p[of_p == cell], q[of_q == cell]
        _check_cell(cell, len(tested), num_cells)
        if len(made) >= _MIN_GENERATED:
            near = t[of_t == cell]
            scores.append(_z(knn(made, near, 1)[0][:, 0], knn(tested, near, 1)[0][:, 0]))
            shares.append(len(tested))
    if not scores:
        raise ValueError(
            f"none of {num_cells} cells holds {_MIN_GENERATED} of the {len(q)} generated rows; "
            "generate more images or use fewer cells."
        )
    return float(np.average(scores, weights=shares))


def nearest_percentiles(
    generated: ArrayLike, train: ArrayLike, held_out: ArrayLike
) -> Float[np.ndarray, " m"]:
    """Returns how near each generated row is to the training rows, as a percentile of real rows.

    Percentage of held-out rows whose nearest training row is nearer than the generated row's, equal
    distances counted half. 0: nearer than every held-out image; 5 % of fresh images lie below
    the 5th percentile.

    Raises:
        ValueError: As :func:`~.frechet.fd`.
    """
    t, g = feature_pair(train, generated)
    h = feature_pair(t, held_out)[1]
    return percentile_ranks(knn(g, t, 1)[0][:, 0], knn(h, t, 1)[0][:, 0])


def percentile_ranks(values: ArrayLike, background: ArrayLike) -> Float[np.ndarray, " m"]:
    """Returns the percentage of ``background`` below each value, equal ones counted half."""
    v, b = np.asarray(values), np.sort(np.asarray(background))
    low, high = np.searchsorted(b, v, "left"), np.searchsorted(b, v, "right")
    return 50.0 * (low + high) / len(b)


def _project(t: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    if t.shape[1] <= _MAX_DIMENSIONS:
        return [t, *others]
    mean = t.mean(axis=0)
    axes = np.linalg.svd(t - mean, full_matrices=False)[2][:_MAX_DIMENSIONS]
    return [(x - mean) @ axes.T for x in (t, *others)]


def _check_cell(cell: int, num_test: int, num_cells: int) -> None:
    if not num_test:
        raise ValueError(
            f"cell {cell} of {num_cells} holds no held-out row, so the data-copying statistic is "
            "undefined; add held-out images or use fewer cells."
        )


def _z(generated: np.ndarray, tested: np.ndarray) -> float:
    """Mann–Whitney ``Z``, below 0 where the generated distances are smaller."""
    m, n = len(generated), len(tested)
    ranks = stats.rankdata(np.concatenate([generated, tested]))[:m]
    pairs = ranks.sum() - m * (m + 1) / 2
    return float((pairs - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12))

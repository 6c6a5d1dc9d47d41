"""The training picture structurally most alike: among all of them, or among likely ones."""

from functools import partial

import numpy as np

from memjax.evaluate.features.base import Images, centred
from memjax.evaluate.rung import NEIGHBOURHOOD, Nearest, Rung, Search, excluded, same_group
from memjax.evaluate.similarity.knn import Groups, knn
from memjax.evaluate.similarity.ssim import SCALE_WEIGHTS, scale_weights, structural_similarity

_EXHAUSTIVE_VALUES = 1 << 20  # of the training pictures; above it only candidates are looked at


def structural_rungs(side: int) -> list[Rung]:
    """Returns SSIM, and MS-SSIM where more than one scale fits; titles say what was made smaller.

    Args:
        side: The shorter edge of the pictures.
    """
    if side < 3:
        return []
    rungs = [Rung("ssim", "Structural similarity (SSIM)", "L1", partial(_structural, (1.0,)))]
    weights = scale_weights(side)
    if len(weights) > 1:
        whole = len(weights) == len(SCALE_WEIGHTS)
        scales = "" if whole else f", {len(weights)} of 5 scales fit"
        title = f"Multi-scale structural similarity (MS-SSIM{scales})"
        rungs.append(Rung("ms_ssim", title, "L1", partial(_structural, weights)))
    return rungs


def _structural(weights: tuple[float, ...], train: Images, owner: Groups | None) -> Search:
    def search(queries: Images, query_owner: Groups | None) -> Nearest:
        exclude = excluded(query_owner, owner)
        if train.size <= _EXHAUSTIVE_VALUES or len(train) <= 2 * NEIGHBOURHOOD:
            found = structural_similarity(queries, train, weights=weights).astype(np.float64)
            if exclude is not None:
                found[same_group(*exclude)] = -np.inf
            candidates = np.broadcast_to(np.arange(len(train)), found.shape)
            return _best(found, candidates)
        return _among_candidates(weights, queries, train, exclude)

    return search


def _among_candidates(weights, queries, train, exclude) -> Nearest:
    """SSIM with the nearest by distance and by Pearson correlation only."""
    near = knn(queries, train, NEIGHBOURHOOD, exclude_groups=exclude)[1]
    flat = [centred(x.reshape(len(x), -1)) for x in (queries, train)]
    alike = knn(flat[0], flat[1], NEIGHBOURHOOD, exclude_groups=exclude)[1]
    candidates = np.concatenate([near, alike], axis=1)
    found = np.empty(candidates.shape)
    rows = max(_EXHAUSTIVE_VALUES // (candidates.shape[1] * train[0].size), 1)
    for i in range(0, len(queries), rows):
        own = train[np.maximum(candidates[i : i + rows], 0)]
        found[i : i + rows] = structural_similarity(queries[i : i + rows], own, weights=weights)
    note = f"among the {NEIGHBOURHOOD} nearest by distance and by Pearson correlation"
    return _best(np.where(candidates >= 0, found, -np.inf), candidates, note)


def _best(found: np.ndarray, candidates: np.ndarray, note: str = "") -> Nearest:
    at = found.argmax(axis=1)[:, None]
    similarity = np.take_along_axis(found, at, 1)[:, 0]
    index = np.take_along_axis(candidates, at, 1)[:, 0]
    return Nearest(similarity, np.where(np.isfinite(similarity), index, -1), note)

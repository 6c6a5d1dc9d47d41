"""Extraction without training data: many generations of each prompt, and the cliques among them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from memjax.core.mesh import prompts_mesh
from memjax.evaluate.similarity.cliques import LEAST, Clique, find_cliques, tiled_distances
from memjax.evaluate.similarity.copy_rules import SimilarityResult, copy_report, pixel_rms
from memjax.evaluate.similarity.resolution import as_bytes, reduced
from memjax.evaluate.statistics.bootstrap import proportion_interval, with_interval
from memjax.runs.model import Model
from memjax.runs.prompts import encoder
from memjax.runtime.batching import spread_bundle, usual_size
from memjax.sampling import SamplingOptions
from memjax.studies.extraction.real import SIDE, Real
from memjax.studies.problems import problem_of
from memjax.studies.run import CAME_BACK
from memjax.studies.samples import sample_noise
from memjax.studies.store import Store
from memjax.studies.study import (
    NEIGHBOURS,
    ArmProblem,
    Chunk,
    Part,
    Progress,
    Study,
    once_made,
    run_arms,
)

THRESHOLDS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3)
KEPT_SIDE = 256  # short side in pixels at which generations are kept and compared with each other
_SLICE = 16  # generations of a prompt at a time

COPY, NOT_A_COPY, NOT_COMPARED = "a training image", "no training image", "not compared"


@dataclasses.dataclass(frozen=True)
class ExtractOptions:
    """What is generated, and what counts as one image that keeps coming back.

    Attributes:
        generations: Images a prompt.
        threshold: Tiled distance, in [0, 1] units, below which two generations are alike.
        least: Generations of a clique that counts.
        seed: Of the initial noises.
        chunk: Prompts at a time; 0 takes what usually fits.
    """

    generations: int = 32
    threshold: float = 0.15
    least: int = LEAST
    seed: int = 0
    chunk: int = 0

    def __post_init__(self) -> None:
        """Refuses what could find nothing."""
        if not 0 < self.threshold <= 1:
            raise ValueError(
                f"--threshold={self.threshold}, expected a distance above 0, at most 1."
            )
        if not 2 <= self.least <= self.generations:
            raise ValueError(
                f"--least={self.least} generations of --generations={self.generations} must be "
                f"alike, expected 2 to {self.generations}: lower --least or make more."
            )


class Found(NamedTuple):
    """One image that keeps coming back.

    Attributes:
        prompt: Number of the prompt.
        clique: The generations that are alike.
        image: Its medoid.
        verdict: :data:`COPY`, :data:`NOT_A_COPY` or :data:`NOT_COMPARED`.
        nearest: Row of the medoid's nearest training image; −1 without training images.
        calibrated: The medoid's calibrated distance; a copy is at most 1.
        rms: RMS difference of the two a pixel, in [0, 1] units.
        copies: Share of the clique's generations that copy a training image.
        exact: How many of them are that training image, byte by byte.
    """

    prompt: int
    clique: Clique
    image: UInt8[np.ndarray, "h w c"]
    verdict: str
    nearest: int
    calibrated: float
    rms: float
    copies: float
    exact: int


class Extraction(NamedTuple):
    """What came back.

    Attributes:
        rows: The prompts.
        found: Cliques of all prompts, in their order.
        copied: Share of each prompt's generations that copy a training image; None if not compared.
        largest: Generations of each prompt's largest clique, of any size.
        summary: JSON-able figures.
    """

    rows: Sequence[Mapping[str, Any]]
    found: list[Found]
    copied: np.ndarray | None
    largest: np.ndarray
    summary: dict[str, Any]


def extract(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    sampling: SamplingOptions,
    options: ExtractOptions,
    real: Real | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Extraction:
    """Makes generations of each prompt, finds cliques, and compares them with training images.

    Training images decide nothing of what is found: they say afterwards what was.

    Args:
        model: The opened model.
        rows: Prompts.
        sampling: How images are made.
        options: How many, and what counts.
        real: Training images; None: nothing is compared.
        store: Where finished parts are kept; held by the caller.
        progress: See :class:`memjax.studies.study.Study`.
        say: Told what is being done.

    Raises:
        ValueError: If there is no prompt, or images do not fit the training images.

    References:
        Carlini et al. 2023, arXiv 2301.13188, section 4.
    """
    if not rows:
        raise ValueError("there is no prompt to make pictures of: give some.")
    images = generations_of(model, rows, sampling, options, store, progress)
    say("looking for images that keep coming back")
    distances = [tiled_distances(own) for own in images]
    cliques = [find_cliques(d, options.threshold, least=options.least) for d in distances]
    near = [None if real is None else _compared(own, real) for own in images]
    found = [
        _found(number, clique, images[number], near[number], real)
        for number, own in enumerate(cliques)
        for clique in own
    ]
    copied = None
    if real is not None:
        copied = np.asarray([n.is_copy_adaptive.mean() for n in near if n is not None])
    largest = np.asarray(
        [
            len(own[0].members) if own else _largest(d, options.threshold)
            for own, d in zip(cliques, distances, strict=True)
        ]
    )
    summary = _summary(rows, found, copied, real, options)
    summary["thresholds"] = [_at(t, distances, copied, options) for t in THRESHOLDS]
    return Extraction(rows, found, copied, largest, summary)


def generations_of(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    sampling: SamplingOptions,
    options: ExtractOptions,
    store: Store | None = None,
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "p g h w c"]:
    """Returns the images of all prompts; a stopped call goes on from its store.

    The noise of generation i does not depend on how many there are.
    """
    mesh = prompts_mesh(local=True)
    bundle, count = spread_bundle(model.bundle, mesh), options.generations
    x_T = np.asarray(sample_noise(bundle.sample_shape, count, options.seed))[:, 0]
    cond = encoder(model, rows)(range(len(rows)))
    arms: dict[str, ArmProblem] = {}
    for start in range(0, count, _SLICE):
        noise = x_T[start : start + _SLICE]
        problem = partial(problem_of, bundle, rows, cond, noise, sampling)
        arms[f"generations {start} to {start + len(noise) - 1}"] = once_made(problem)
    size = options.chunk or usual_size(min(count, _SLICE))
    study = Study(bundle, {}, sampling, None, min(size, len(rows)), store, progress, mesh)
    parts = run_arms(study, arms, len(rows), _kept)
    slices = [np.concatenate([p.arrays["images"] for p in of]) for of in parts.values()]
    return np.concatenate(slices, axis=1)


def _kept(arm: str, chunk: Chunk) -> Part:
    """Keeps the images, large ones shrunk."""
    del arm
    flat = chunk.images.reshape(-1, *chunk.images.shape[2:])
    small = as_bytes(reduced(flat, KEPT_SIDE))
    return Part({"images": small.reshape(*chunk.images.shape[:2], *small.shape[1:])}, [])


def _compared(images: np.ndarray, real: Real) -> SimilarityResult:
    return copy_report(
        reduced(images, SIDE),
        real.compared,
        patients=real.gallery.patients,
        background=real.background,
        n=min(NEIGHBOURS, len(real.compared)),
    )


def _found(
    number: int,
    clique: Clique,
    images: np.ndarray,
    near: SimilarityResult | None,
    real: Real | None,
) -> Found:
    image = images[clique.medoid]
    if near is None or real is None:
        nan = float("nan")
        return Found(number, clique, image, NOT_COMPARED, -1, nan, nan, nan, 0)
    own, at = list(clique.members), clique.medoid
    row = int(near.index[at])
    share = float(near.is_copy_adaptive[own].mean())  # of any: training may hold near repeats
    training = as_bytes(real.compared[row])
    exact = sum(np.array_equal(as_bytes(reduced(images[[i]], SIDE))[0], training) for i in own)
    rms = float(pixel_rms(near.distance[at], real.compared[0].size))
    ratio = float(near.ratio_adaptive[at])
    verdict = COPY if share >= CAME_BACK else NOT_A_COPY
    return Found(number, clique, image, verdict, row, ratio, rms, share, exact)


def _largest(distance: np.ndarray, threshold: float) -> int:
    alike = find_cliques(distance, threshold, least=2)
    return len(alike[0].members) if alike else 1


def _summary(
    rows: Sequence[Mapping[str, Any]],
    found: Sequence[Found],
    copied: np.ndarray | None,
    real: Real | None,
    options: ExtractOptions,
) -> dict[str, Any]:
    several = {f.prompt for f in found}
    out: dict[str, Any] = {
        "num_prompts": len(rows),
        "num_generations": options.generations,
        "threshold": options.threshold,
        "least": options.least,
        "num_cliques": len(found),
        "num_prompts_found": len(several),
        "num_not_proven": sum(not f.clique.exact for f in found),
        **with_interval("found", proportion_interval(len(several), len(rows))),
    }
    if real is None or copied is None:
        return out
    sure = [f for f in found if f.verdict == COPY]
    confirmed = {f.prompt for f in sure}
    back = set(np.flatnonzero(copied >= CAME_BACK).tolist())
    taken = np.unique([f.nearest for f in sure]).astype(int)
    repeated = real.gallery.copies > 1
    of = proportion_interval(len(sure), len(found)) if found else None
    return {
        **out,
        "num_confirmed": len(sure),
        "num_false": len(found) - len(sure),
        "num_exact": sum(f.exact > 0 for f in sure),
        "num_prompts_confirmed": len(confirmed),
        **with_interval("confirmed", proportion_interval(len(confirmed), len(rows))),
        **with_interval("precision", of),
        "num_prompts_copying": len(back),
        "num_prompts_missed": len(back - confirmed),
        **with_interval(
            "recall",
            proportion_interval(len(back & confirmed), len(back)) if back else None,
        ),
        "num_training_images": len(taken),
        "num_repeated": int(repeated.sum()),
        "num_repeated_extracted": int(repeated[taken].sum()),
        "training": real.words,
        "background": _background(real.background),
    }


def _background(result: SimilarityResult | None) -> dict[str, Any] | None:
    """How many real images that were never trained on count as copies."""
    if result is None:
        return None
    wrong, of = int(result.is_copy_adaptive.sum()), len(result.index)
    return {"num": wrong, "of": of, **with_interval("rate", proportion_interval(wrong, of))}


def _at(
    threshold: float,
    distances: Sequence[np.ndarray],
    copied: np.ndarray | None,
    options: ExtractOptions,
) -> dict[str, Any]:
    """What another threshold finds, greedily: prompts, and those that mostly copy."""
    hit = np.asarray(
        [bool(find_cliques(d, threshold, least=options.least, exact=0)) for d in distances]
    )
    row: dict[str, Any] = {"threshold": threshold, "num_prompts": int(hit.sum())}
    if copied is not None:
        row["num_copying"] = int((hit & (copied >= CAME_BACK)).sum())
    return row

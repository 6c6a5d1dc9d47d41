"""One study of one model: its images under some problem, the detectors along, and real images."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from memjax.core.denoiser import gives_maps
from memjax.core.types import Array, Bundle, Detector
from memjax.detectors import Detection, prepare
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.similarity.copy_rules import SimilarityResult, copy_report
from memjax.evaluate.similarity.ladder import CalibratedRung, RungResult, apply_ladder
from memjax.evaluate.similarity.resolution import as_unit, reduced
from memjax.mitigations import Problem
from memjax.mitigations.base import chunk_numbers
from memjax.sampling import SamplingOptions
from memjax.studies.decoding import decoded
from memjax.studies.prompts.draw import Gallery
from memjax.studies.store import Store, text_digest

NEIGHBOURS = 50
Progress = Callable[[str], Callable[[int, int], None]]
MakeProblem = Callable[[], Problem]


class References(NamedTuple):
    """Real images, and what generated ones are compared by.

    Attributes:
        gallery: Real images.
        judge: Says which labels an image shows; None where the data have none.
        ladder: Measures of likeness besides the copy rules, calibrated; may be empty.
        background: Copy rules on held-out real images, the same patient excluded.
        side: Short side at which distances of pixels are measured; 0 compares images as they
            are. Above 0 images are kept as bytes, see :mod:`memjax.evaluate.similarity.resolution`.
        clip: Scores images against captions; None where there are no weights.
        compared: The gallery's training images at that size.
    """

    gallery: Gallery
    judge: Judge | None
    ladder: Mapping[str, CalibratedRung]
    background: SimilarityResult
    side: int
    clip: ClipScore | None
    compared: Float[np.ndarray, "n h w c"]


def make_references(
    gallery: Gallery,
    judge: Judge | None = None,
    ladder: Mapping[str, CalibratedRung] | None = None,
    *,
    side: int = 0,
    clip: ClipScore | None = None,
) -> References:
    """Returns what images are compared with; the background is measured here, once.

    Args:
        gallery: Real images.
        judge: See :class:`References`.
        ladder: See :class:`References`.
        side: See :class:`References`.
        clip: See :class:`References`.
    """
    compared = reduced(gallery.train, side)
    background = copy_report(
        reduced(gallery.held_out, side),
        compared,
        patients=gallery.patients,
        query_patients=gallery.held_patients,
        n=min(NEIGHBOURS, len(gallery.train)),
    )
    return References(gallery, judge, ladder or {}, background, side, clip, compared)


class Study(NamedTuple):
    """What stays the same from one arm of a study to the next.

    Attributes:
        bundle: The model.
        detectors: What rides along the trajectories, by name; those whose needs the model does
            not meet are left out.
        sampling: How images are made.
        references: What images are compared with.
        chunk: Prompts evaluated together.
        store: Where finished parts are kept; None keeps none.
        progress: Name → ``(prompts done, prompts in all) →`` nothing, for images that take long.
    """

    bundle: Bundle
    detectors: Mapping[str, Detector]
    sampling: SamplingOptions
    references: References
    chunk: int = 8
    store: Store | None = None
    progress: Progress | None = None


class Observation(NamedTuple):
    """What was seen of some prompts; images are in the order prompt · generation.

    Attributes:
        detection: What the detectors saw; None where the model serves none of them.
        images: Images in [-1, 1], or bytes where distances are measured on smaller ones.
        similarity: Copy rules against the training images.
        ladder: Each rung's likeness to the training images.
        agreement: Labels as asked for, per prompt and generation; NaN where not judged.
        clip: CLIP score with the caption asked for, likewise; None without weights.
    """

    detection: Detection | None
    images: Shaped[np.ndarray, "p g h w c"]
    similarity: SimilarityResult
    ladder: dict[str, RungResult]
    agreement: Float[np.ndarray, "p g"]
    clip: Float[np.ndarray, "p g"] | None = None

    @property
    def flat(self) -> Shaped[np.ndarray, "r h w c"]:
        """The images, one a row."""
        return self.images.reshape(-1, *self.images.shape[2:])


def observe(
    study: Study,
    name: str,
    size: int,
    problem: MakeProblem,
    asked: Int[np.ndarray, "p f"],
    strata: Shaped[np.ndarray, " p"] | None = None,
    captions: Sequence[str] | None = None,
) -> Observation:
    """Makes the images of some prompts and compares them with the real ones.

    Args:
        study: Model, real images and how to compare.
        name: What the arm is called; parts are kept under it.
        size: How many prompts there are.
        problem: Makes what is sampled; not called where all parts are there.
        asked: Labels asked for: 1 present, 0 absent, −1 not mentioned.
        strata: Class of each prompt.
        captions: What was asked in words, for the CLIP score.
    """
    detection, images = _generate(study, name, size, problem)
    references, generations = study.references, images.shape[1]
    flat = images.reshape(-1, *images.shape[2:])
    similarity = copy_report(
        reduced(flat, references.side),
        references.compared,
        patients=references.gallery.patients,
        background=references.background,
        n=min(NEIGHBOURS, len(references.gallery.train)),
    )
    agreement = np.full(images.shape[:2], np.nan)
    if references.judge is not None:
        wanted = np.repeat(asked, generations, axis=0)
        agreement = references.judge.agreement(flat, wanted).reshape(images.shape[:2])
    each = None if strata is None else np.repeat(strata, generations)
    ladder = apply_ladder(references.ladder, flat, strata=each)
    clip = None if captions is None else _clip(references.clip, images, captions)
    return Observation(detection, images, similarity, ladder, agreement, clip)


def _clip(
    score: ClipScore | None, images: np.ndarray, captions: Sequence[str]
) -> np.ndarray | None:
    """CLIP scores, prompt by prompt: an image of bytes is a float for a moment only."""
    if score is None:
        return None
    pairs = zip(images, captions, strict=True)
    return np.stack([score(as_unit(of), [text] * len(of)) for of, text in pairs])


def served(detectors: Mapping[str, Detector], bundle: Bundle) -> dict[str, Detector]:
    """Returns the detectors whose needs a model meets."""
    missing = lacking(bundle)
    return {name: d for name, d in detectors.items() if not d.needs & missing}


def lacking(bundle: Bundle) -> frozenset[str]:
    """Returns the needs of methods that a model does not meet."""
    missing = {"eps_uncond": bundle.null_cond is None, "maps": not gives_maps(bundle.eps_fn)}
    return frozenset(need for need, yes in missing.items() if yes)


def _generate(
    study: Study, name: str, size: int, make: MakeProblem
) -> tuple[Detection | None, Shaped[np.ndarray, "p g h w c"]]:
    """Returns what the detectors saw, if there are any, and the images; chunks are kept."""
    batches = chunk_numbers(size, study.chunk)
    detectors = served(study.detectors, study.bundle)
    known = [_known(study, name, number) for number in range(len(batches))]
    parts: list[dict[str, np.ndarray]] = []
    if any(part is None for part in known):
        problem = make()
        probe = _probe(study, problem, detectors)
    update = None if study.progress is None else study.progress("making pictures")
    for number, (rows, part) in enumerate(zip(batches, known, strict=True)):
        if part is None:
            real = min(study.chunk, size - int(rows[0]))
            chosen = problem.take(rows)
            found, end = probe((chosen.cond, chosen.x_T) if problem.own_noise else chosen.cond)
            part = {f"statistic-{k}": np.asarray(v)[:real] for k, v in enumerate(found.values())}
            part["images"] = _images(study, np.asarray(end)[:real])
            part["forward_evals"] = np.asarray(probe.forward_evals(size))
            part["dim"] = np.asarray(probe.dim)
            if study.store is not None:
                study.store.keep(_part_name(study, name, number), part)
        parts.append(part)
        if update is not None:
            update(min(int(rows[-1]) + 1, size), size)
    images = np.concatenate([part["images"] for part in parts])
    if not detectors:
        return None, images
    statistics = {
        of: np.concatenate([part[f"statistic-{k}"] for part in parts])
        for k, of in enumerate(detectors)
    }
    windows = {of: detector.steps for of, detector in detectors.items()}
    evals, dim = int(parts[0]["forward_evals"]), int(parts[0]["dim"])
    return Detection(statistics, None, evals, dim, windows), images


def _part_name(study: Study, name: str, number: int) -> str:
    plain = "".join(c if c.isalnum() or c in "._" else "-" for c in name)[:80]
    return f"{plain}-{text_digest(name)[:6]}-{study.chunk}x{number:05d}"


def _known(study: Study, name: str, number: int) -> dict[str, np.ndarray] | None:
    found = None if study.store is None else study.store.read(_part_name(study, name, number))
    return None if found is None else found[1]


def _probe(study: Study, problem: Problem, detectors: Mapping[str, Detector]):
    probe = prepare(
        study.bundle.eps_fn,
        problem.params,
        problem.x_T[0] if problem.own_noise else problem.x_T,
        problem.null_cond,
        study.bundle.schedule,
        detectors=detectors,
        own_noise=problem.own_noise,
        guidance=problem.guidance,
        **study.sampling.unguided(),
    )
    return probe


def _images(study: Study, states: Array) -> Shaped[np.ndarray, "p g h w c"]:
    if study.references.side:
        return decoded(study.bundle, states)
    return np.asarray(study.bundle.decode(states))

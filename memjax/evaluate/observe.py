"""One look at a model: make the pictures of some prompts and compare them with real ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from memjax.core.denoiser import gives_maps
from memjax.core.types import Array, Bundle, Detector
from memjax.detectors import Detection, detect
from memjax.evaluate.audit_inputs import Gallery
from memjax.evaluate.clip_score import ClipScore
from memjax.evaluate.decoding import decoded
from memjax.evaluate.finding_classifier import Judge
from memjax.evaluate.ladder import CalibratedRung, RungResult, apply_ladder
from memjax.evaluate.picture_size import as_unit, reduced
from memjax.evaluate.similarity import SimilarityResult, copy_report
from memjax.mitigations import Problem
from memjax.sampling import SamplingOptions

NEIGHBOURS = 50
Progress = Callable[[str], Callable[[int, int], None]]


class Scene(NamedTuple):
    """What stays the same from one look to the next.

    Attributes:
        bundle: The model.
        detectors: What rides along the trajectories, by name; those whose needs the model does
            not meet are left out.
        gallery: Real pictures.
        judge: Says which labels a picture shows; None where the data have none.
        ladder: Measures of likeness besides the copy rules, calibrated; may be empty.
        sampling: How pictures are made.
        noise: Initial noises ``[generation, ...]``, shared by all prompts.
        background: Copy rules on held-out real pictures.
        chunk: Prompts evaluated together.
        side: Short side at which distances of pixels are measured; 0 compares pictures as they
            are. Above 0 pictures are kept as bytes, see :mod:`memjax.evaluate.picture_size`.
        clip: Scores pictures against captions; None where there are no weights.
        compared: The gallery's training pictures at that size; None: as they are.
        progress: Name → ``(prompts done, prompts in all) →`` nothing, for pictures that take long.
    """

    bundle: Bundle
    detectors: Mapping[str, Detector]
    gallery: Gallery
    judge: Judge | None
    ladder: Mapping[str, CalibratedRung]
    sampling: SamplingOptions
    noise: Float[Array, "g *d"]
    background: SimilarityResult
    chunk: int = 8
    side: int = 0
    clip: ClipScore | None = None
    compared: Float[np.ndarray, "n h w c"] | None = None
    progress: Progress | None = None


class Observation(NamedTuple):
    """What one look saw; pictures are in the order prompt · generation.

    Attributes:
        detection: Magnitudes; None where the model has no null condition.
        images: Pictures in [-1, 1], or bytes where distances are measured on smaller ones.
        similarity: Copy rules against the training pictures.
        ladder: Each rung's likeness to the training pictures.
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
        """The pictures, one a row."""
        return self.images.reshape(-1, *self.images.shape[2:])


def background_of(gallery: Gallery, side: int = 0) -> SimilarityResult:
    """Returns the copy rules on held-out real pictures, the same patient excluded.

    Args:
        gallery: Real pictures.
        side: Short side at which they are compared; 0: as they are.
    """
    return copy_report(
        reduced(gallery.held_out, side),
        reduced(gallery.train, side),
        patients=gallery.patients,
        query_patients=gallery.held_patients,
        n=min(NEIGHBOURS, len(gallery.train)),
    )


def look(
    scene: Scene,
    problem: Problem,
    asked: Int[np.ndarray, "p f"],
    strata: Shaped[np.ndarray, " p"] | None = None,
    captions: Sequence[str] | None = None,
) -> Observation:
    """Makes the pictures of some prompts and compares them with the real ones.

    Args:
        scene: Model, real pictures and how to compare.
        problem: What is sampled.
        asked: Labels asked for: 1 present, 0 absent, −1 not mentioned.
        strata: Class of each prompt.
        captions: What was asked in words, for the CLIP score.
    """
    detection, states = _generate(scene, problem)
    images = (
        decoded(scene.bundle, states) if scene.side else np.asarray(scene.bundle.decode(states))
    )
    flat, generations = images.reshape(-1, *images.shape[2:]), images.shape[1]
    similarity = copy_report(
        reduced(flat, scene.side),
        scene.gallery.train if scene.compared is None else scene.compared,
        patients=scene.gallery.patients,
        background=scene.background,
        n=min(NEIGHBOURS, len(scene.gallery.train)),
    )
    agreement = np.full(images.shape[:2], np.nan)
    if scene.judge is not None:
        wanted = np.repeat(asked, generations, axis=0)
        agreement = scene.judge.agreement(flat, wanted).reshape(images.shape[:2])
    each = None if strata is None else np.repeat(strata, generations)
    ladder = apply_ladder(scene.ladder, flat, strata=each)
    clip = None if captions is None else _clip(scene, images, captions)
    return Observation(detection, images, similarity, ladder, agreement, clip)


def _clip(scene: Scene, images: np.ndarray, captions: Sequence[str]) -> np.ndarray | None:
    """CLIP scores, prompt by prompt: a picture of bytes is a float for a moment only."""
    if scene.clip is None:
        return None
    pairs = zip(images, captions, strict=True)
    return np.stack([scene.clip(as_unit(of), [text] * len(of)) for of, text in pairs])


def served(detectors: Mapping[str, Detector], bundle: Bundle) -> dict[str, Detector]:
    """Returns the detectors whose needs a model meets."""
    lacking = set() if bundle.null_cond is not None else {"eps_uncond"}
    lacking |= set() if gives_maps(bundle.eps_fn) else {"maps"}
    return {name: d for name, d in detectors.items() if not d.needs & lacking}


def _generate(scene: Scene, problem: Problem) -> tuple[Detection | None, np.ndarray]:
    """Returns what the detectors saw, if there are any, and the final states."""
    settings = scene.sampling.static()
    del settings["guidance_scale"]  # the problem's guidance stands for it
    found = detect(
        scene.bundle.eps_fn,
        problem.params,
        problem.x_T,
        problem.cond,
        problem.null_cond,
        scene.bundle.schedule,
        detectors=served(scene.detectors, scene.bundle),
        chunk=scene.chunk,
        own_noise=problem.own_noise,
        guidance=problem.guidance,
        progress=None if scene.progress is None else scene.progress("making pictures"),
        **settings,
    )
    if found.images is None:
        raise ValueError("the pictures were not finished: sample to the last step.")
    return (found if found.statistics else None), found.images

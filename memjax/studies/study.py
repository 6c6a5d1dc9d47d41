"""One study of one model: its images under some arms, the detectors along, and real images.

:func:`run_arms` is the loop of every command that makes images of prompts: an audit compares what
comes of it with all training images, a mitigation with each prompt's own.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from memjax.core.condition import chunk_numbers
from memjax.core.denoiser import gives_end_map, gives_maps, of_texts
from memjax.core.mesh import row_shards
from memjax.core.types import Array, Bundle, Detector
from memjax.detectors import Detection, Probe, prepare
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.similarity.copy_rules import SimilarityResult, copy_report
from memjax.evaluate.similarity.ladder import CalibratedRung, RungResult, apply_ladder
from memjax.evaluate.similarity.resolution import as_unit, reduced
from memjax.mitigations import Problem
from memjax.runtime.batching import over_devices
from memjax.runtime.hosts import barrier
from memjax.sampling import SamplingOptions
from memjax.studies.decoding import decoded
from memjax.studies.prompts.draw import Gallery
from memjax.studies.store import Store, text_digest

NEIGHBOURS = 50
Progress = Callable[[str], Callable[[int, int], None]]
MakeProblem = Callable[[], Problem]
Record = dict[str, Any]
# Prompts, the last one repeated to fill a chunk → their problem, and what is known of each.
ArmProblem = Callable[[Int[np.ndarray, " k"]], tuple[Problem, Sequence[Record]]]


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
        against: What all images are compared with; None where each prompt has images of its own.
        chunk: Prompts evaluated together.
        store: Where finished parts are kept; None keeps none.
        progress: Name → ``(prompts done, prompts in all) →`` nothing, for images that take long.
        mesh: Devices of this process over which the prompts of a chunk are spread.
    """

    bundle: Bundle
    detectors: Mapping[str, Detector]
    sampling: SamplingOptions
    against: References | None
    chunk: int = 8
    store: Store | None = None
    progress: Progress | None = None
    mesh: Mesh | None = None

    @property
    def references(self) -> References:
        """What all images are compared with."""
        if self.against is None:
            raise ValueError("there are no real images to compare with: give the study some.")
        return self.against


class Chunk(NamedTuple):
    """Some prompts under one arm, sampled.

    Attributes:
        numbers: Which prompts.
        problem: What was sampled; its last prompt is repeated to fill the chunk.
        facts: What the arm says of each prompt, such as the updates that it took.
        statistics: What the detectors saw.
        images: As :class:`Observation` has them.
    """

    numbers: Int[np.ndarray, " p"]
    problem: Problem
    facts: Sequence[Record]
    statistics: Mapping[str, Float[np.ndarray, "p g s"]]
    images: Shaped[np.ndarray, "p g h w c"]


class Part(NamedTuple):
    """What is kept of a chunk: arrays by name, and records."""

    arrays: dict[str, np.ndarray]
    records: list[Record]


Reduce = Callable[[str, Chunk], Part]


def keep_images(arm: str, chunk: Chunk) -> Part:
    """Keeps the images themselves."""
    del arm
    return Part({"images": chunk.images}, [])


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
    keys: Sequence[str] = (),
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
        keys: See :func:`run_arms`.
    """
    references = study.references
    parts = run_arms(study, {name: once_made(problem)}, size, keys=keys)[name]
    images = np.concatenate([part.arrays["images"] for part in parts])
    generations = images.shape[1]
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
    detection = detection_of(study, parts)
    return Observation(detection, images, similarity, ladder, agreement, clip)


def once_made(make: MakeProblem) -> ArmProblem:
    """Returns an arm whose problem is made for all prompts, the first time that some are asked."""
    made = functools.cache(make)

    def arm(numbers: Int[np.ndarray, " k"]) -> tuple[Problem, Sequence[Record]]:
        return made().take(numbers), [{} for _ in numbers]

    return arm


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
    null, network = bundle.null_cond, bundle.eps_fn
    missing = {
        "eps_uncond": null is None,
        "maps": not gives_maps(network),
        "end_map": not gives_end_map(network) or not of_texts(null),
    }
    return frozenset(need for need, yes in missing.items() if yes)


def run_arms(
    study: Study,
    arms: Mapping[str, ArmProblem],
    size: int,
    reduce: Reduce = keep_images,
    *,
    keys: Sequence[str] = (),
    most: int | None = None,
) -> dict[str, list[Part]]:
    """Samples every chunk of prompts under every arm, and keeps what ``reduce`` makes of it.

    Of several processes each does every n-th chunk; what one has done is not done again.

    Args:
        study: Model, detectors, store.
        arms: Name → its problem for some prompts.
        size: How many prompts there are.
        reduce: Arm and chunk → what is kept; what the detectors saw is always.
        keys: What tells prompts apart, where the store holds parts of other prompts too.
        most: Chunks that are done at most; None: all.

    Returns:
        The parts of each arm, chunk by chunk.

    Raises:
        ValueError: If another process keeps its parts where this one does not see them.
    """
    shards = 1 if study.mesh is None else row_shards(study.mesh)
    batches = chunk_numbers(size, study.chunk, shards)[:most]
    names = [
        _part_name(study, number, [keys[i] for i in rows] if keys else ())
        for number, rows in enumerate(batches)
    ]
    detectors = served(study.detectors, study.bundle)
    mine = range(jax.process_index(), len(batches), jax.process_count())
    real = [rows[: size - int(rows[0])] for rows in batches]
    update = None if study.progress is None else study.progress("making images")
    parts: dict[tuple[str, int], Part] = {}
    done = 0
    for number in mine:
        for name, arm in arms.items():
            part = _known(study, name, names[number])
            if part is None:
                problem, facts = arm(batches[number])
                part = _part(study, name, detectors, problem, facts, real[number], size, reduce)
                if study.store is not None:
                    study.store.keep(_of_arm(name, names[number]), part.arrays, part.records)
            parts[name, number] = part
        done += len(real[number])
        if update is not None:
            update(done, sum(len(real[n]) for n in mine))
    if jax.process_count() > 1:
        barrier("chunks done")
        parts = {(a, n): _of_others(study, a, names[n]) for a in arms for n in range(len(batches))}
        barrier("chunks read")
    return {name: [parts[name, number] for number in range(len(batches))] for name in arms}


def _part(
    study: Study,
    name: str,
    detectors: Mapping[str, Detector],
    problem: Problem,
    facts: Sequence[Record],
    numbers: Int[np.ndarray, " p"],
    size: int,
    reduce: Reduce,
) -> Part:
    """Samples one chunk under one arm."""
    problem = problem._replace(cond=over_devices(problem.cond, study.mesh))
    probe = _probe(study, problem, detectors)
    found, end = probe((problem.cond, problem.x_T) if problem.own_noise else problem.cond)
    real = len(numbers)
    statistics = {of: np.asarray(values)[:real] for of, values in found.items()}
    images = _images(study, np.asarray(end)[:real])
    kept = reduce(name, Chunk(numbers, problem, facts[:real], statistics, images))
    arrays = {f"statistic-{k}": values for k, values in enumerate(statistics.values())}
    told = {"forward_evals": probe.forward_evals(size), "dim": probe.dim}
    arrays |= {of: np.asarray(value) for of, value in told.items()}
    return Part({**kept.arrays, **arrays}, kept.records)


def detection_of(study: Study, parts: Sequence[Part]) -> Detection | None:
    """Returns what the detectors saw of all prompts; None where the model serves none of them."""
    detectors = served(study.detectors, study.bundle)
    if not detectors:
        return None
    statistics = {
        of: np.concatenate([part.arrays[f"statistic-{k}"] for part in parts])
        for k, of in enumerate(detectors)
    }
    windows = {of: detector.steps for of, detector in detectors.items()}
    evals, dim = (int(parts[0].arrays[of]) for of in ("forward_evals", "dim"))
    return Detection(statistics, None, evals, dim, windows)


def _part_name(study: Study, number: int, keys: Sequence[str]) -> str:
    of = f"-{text_digest(list(keys))[:10]}" if keys else ""
    return f"{study.chunk}x{number:05d}{of}"


def _of_arm(arm: str, part: str) -> str:
    plain = "".join(c if c.isalnum() or c in "._" else "-" for c in arm)[:80]
    return f"{plain}-{text_digest(arm)[:6]}-{part}"


def _known(study: Study, arm: str, part: str) -> Part | None:
    found = None if study.store is None else study.store.read(_of_arm(arm, part))
    return None if found is None else Part(found[1], found[0])


def _of_others(study: Study, arm: str, name: str) -> Part:
    part = _known(study, arm, name)
    if part is None:
        folder = "memory" if study.store is None else study.store.folder
        raise ValueError(
            f"chunk {name} of another process is not in {folder}: give an --out that all hosts "
            "share."
        )
    return part


def _probe(study: Study, problem: Problem, detectors: Mapping[str, Detector]) -> Probe:
    return prepare(
        study.bundle.eps_fn,
        problem.params,
        problem.x_T[0] if problem.own_noise else problem.x_T,
        problem.null_cond,
        study.bundle.schedule,
        detectors=detectors,
        own_noise=problem.own_noise,
        guidance=problem.guidance,
        decode=study.bundle.decode,
        **study.sampling.unguided(),
    )


def _images(study: Study, states: Array) -> Shaped[np.ndarray, "p g h w c"]:
    if study.against is None or study.against.side:
        return decoded(study.bundle, states)
    return np.asarray(study.bundle.decode(states))

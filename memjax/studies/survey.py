"""A survey of all training prompts: which are louder than prompts the model never saw?

Nobody need know what was repeated. Every different prompt of the training data, and of held-out
images, is scored at the first step, one evaluation an initial noise; the threshold is fitted on
the held-out ones; the loudest are then asked for.

References:
    Wen et al., ICLR 2024, section 3.2 (the first step alone tells memorized prompts).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.detectors import NoiseMagnitude, fit_threshold, prepare
from memjax.evaluate.similarity.near_duplicates import find_duplicates
from memjax.evaluate.similarity.resolution import as_bytes
from memjax.evaluate.statistics.bootstrap import rate_interval, with_interval
from memjax.runs.model import Model
from memjax.runs.options import MAGNITUDE, AuditOptions
from memjax.runs.prompts import encoder
from memjax.runtime.batching import usual_size
from memjax.sampling import SamplingOptions
from memjax.studies.prompts.draw import (
    HELD_OUT,
    LOUDEST,
    ONCE,
    Candidates,
    Gallery,
    Prompts,
)
from memjax.studies.rows import measure_rows
from memjax.studies.run import CAME_BACK, Audit
from memjax.studies.store import Store, content_digest, text_digest

LEAST_HELD_OUT = 3  # scores from which a threshold is fitted


class Survey(NamedTuple):
    """Scores of the training prompts and of held-out ones.

    Attributes:
        candidates: The prompts; those of training first.
        scores: Mean raw magnitude at the first step over the initial noises, of all of them.
        threshold: Of a prompt that is flagged, fitted on the held-out ones; None where there are
            too few of them.
        target_fpr: Share of held-out prompts that may lie above it.
        generations: Initial noises.
        dim: Dimensions of a state.
    """

    candidates: Candidates
    scores: Float[np.ndarray, " n"]
    threshold: float | None
    target_fpr: float
    generations: int
    dim: int

    @property
    def training(self) -> Float[np.ndarray, " k"]:
        """Scores of the training prompts."""
        return self.scores[: self.candidates.trained]

    @property
    def held_out(self) -> Float[np.ndarray, " m"]:
        """Scores of the held-out prompts."""
        return self.scores[self.candidates.trained :]

    @property
    def flagged(self) -> Bool[np.ndarray, " k"]:
        """Which training prompts are louder than the threshold; none where there is none."""
        if self.threshold is None:
            return np.zeros(len(self.training), bool)
        return self.training > self.threshold

    @property
    def loudest(self) -> list[int]:
        """Gallery rows of the training prompts, the loudest first."""
        order = np.argsort(-self.training, kind="stable")
        return [int(i) for i in self.candidates.group[order]]


def take_survey(
    model: Model,
    candidates: Candidates,
    options: AuditOptions,
    sampling: SamplingOptions,
    store: Store,
    *,
    size: int = 0,
    progress: Callable[[int], Callable[[int, int], None]] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Survey:
    """Scores all prompts; a stopped survey goes on from its store.

    Args:
        model: The opened model, which has a null condition.
        candidates: The prompts.
        options: Noises, seed and the accepted share of false alarms.
        sampling: How images are made: decides the first timestep.
        store: Where finished batches are kept; held by the caller.
        size: Prompts a call; 0 takes what fits.
        progress: See :func:`memjax.studies.rows.measure_rows`.
        say: Told what is not taken, and what is there already.
    """
    bundle = model.bundle
    key = jax.random.key(options.seed)
    x_T = jax.random.normal(key, (options.generations, *bundle.sample_shape))
    probe = prepare(
        bundle.eps_fn,
        bundle.params,
        x_T,
        bundle.null_cond,
        bundle.schedule,
        detectors={MAGNITUDE: NoiseMagnitude()},
        steps="first",
        **sampling.static(),
    )

    def values_of(numbers: np.ndarray, out: Any) -> np.ndarray:
        scores = np.asarray(out[0][MAGNITUDE])
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the scores of {candidates.rows[int(numbers[0])]['id']} and those after it are "
                "not finite: look at the model's weights."
            )
        return scores[:, None]

    values = measure_rows(
        probe,
        encoder(model, candidates.rows),
        len(candidates.rows),
        store,
        values_of,
        size=size,
        most=usual_size(options.generations),
        progress=progress,
        say=say,
    )
    scores = values.mean(axis=(1, 2, 3), dtype=np.float64)
    held = scores[candidates.trained :]
    known = len(held) >= LEAST_HELD_OUT
    return Survey(
        candidates,
        scores,
        fit_threshold(held, options.target_fpr) if known else None,
        options.target_fpr,
        options.generations,
        probe.dim,
    )


def survey_job(
    model: Model, candidates: Candidates, options: AuditOptions, sampling: SamplingOptions
) -> dict[str, Any]:
    """Returns all that decides a survey's scores."""
    bundle = model.bundle
    return {
        **vars(sampling),
        "generations": options.generations,
        "seed": options.seed,
        "dtype": model.dtype,
        "model": content_digest((bundle.params, bundle.schedule)),
        "null condition": content_digest(bundle.null_cond),
        "prompts": text_digest(candidates.rows),
    }


def came_back_section(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    """Returns ``came_back`` of ``report.json``: how many of which prompts brought a copy back.

    Args:
        audit: What was made of the loudest, of a random sample and of held-out prompts.
        prompts: Those prompts.
        options: ``leads`` says whether fewer than ``least`` prompts are known to be memorized.
    """
    groups = {
        LOUDEST: np.flatnonzero(prompts.loud),
        ONCE: prompts.where(ONCE),
        HELD_OUT: prompts.where(HELD_OUT),
    }
    return {
        "leads": bool(audit.memorized.sum() < options.least),
        "groups": {name: _came_back(audit, rows) for name, rows in groups.items() if len(rows)},
    }


def survey_section(
    survey: Survey | None, repeats: int, near: Bool[np.ndarray, " g"] | None = None
) -> dict[str, Any]:
    """Returns ``survey`` of ``report.json``; nothing where no prompt was scored.

    Args:
        survey: Of the training prompts.
        repeats: How often an image stands in training that is known to be repeated.
        near: Which training images nearly stand twice, see :func:`nearly_twice`.
    """
    if survey is None:
        return {}
    flagged, trained, threshold = survey.flagged, survey.candidates.trained, survey.threshold
    known = threshold is not None
    return {
        "survey": {
            "detector": MAGNITUDE,
            "generations": survey.generations,
            "num_training": survey.candidates.total,
            "num_scored": trained,
            "num_held_out": len(survey.held_out),
            "threshold": threshold,
            "threshold_rms": None if threshold is None else threshold / math.sqrt(survey.dim),
            "target_fpr": survey.target_fpr,
            "num_flagged": int(flagged.sum()) if known else None,
            **with_interval("flagged", rate_interval(flagged) if known else None),
            "num_shared": int((survey.candidates.images[:trained] > 1).sum()),
            "known_repeats": _known(survey, repeats),
            "near_duplicates": _near(survey, near),
        }
    }


def nearly_twice(gallery: Gallery) -> Bool[np.ndarray, " g"]:
    """Returns which training images have a near duplicate among the others.

    References:
        :mod:`memjax.evaluate.similarity.near_duplicates`.
    """
    group = find_duplicates(as_bytes(gallery.train)).group
    return np.bincount(group)[group] > 1


def _near(survey: Survey, near: Bool[np.ndarray, " g"] | None) -> dict[str, Any] | None:
    """How many prompts of images that nearly stand twice are flagged."""
    if near is None or survey.threshold is None:
        return None
    own = near[survey.candidates.group[: survey.candidates.trained]]
    if not own.any():
        return None
    flagged = survey.flagged[own]
    found = {"num": int(own.sum()), "num_flagged": int(flagged.sum())}
    return {**found, **with_interval("recall", rate_interval(flagged))}


def _came_back(audit: Audit, rows: Int[np.ndarray, " k"]) -> dict[str, Any]:
    """How many of some prompts came back: at least half of their images copy a training image."""
    generations = audit.before.images.shape[1]
    copies = audit.before.similarity.is_copy_adaptive.reshape(-1, generations)[rows]
    clusters = np.repeat(np.arange(len(rows)), generations)
    back = copies.mean(axis=1) >= CAME_BACK
    return {
        "num": len(rows),
        "num_came_back": int(back.sum()),
        **with_interval("came_back", rate_interval(back)),
        **with_interval("copy_rate", rate_interval(copies.ravel(), clusters=clusters)),
    }


def _known(survey: Survey, repeats: int) -> dict[str, Any] | None:
    """How the flags meet what is known to be repeated, which the survey was not told."""
    found, trained = survey.candidates, survey.candidates.trained
    known = found.copies[:trained] >= repeats
    if not known.any():
        return None
    out: dict[str, Any] = {"repeats": repeats, "num": int(known.sum())}
    rank = np.empty(trained, np.int64)
    rank[np.argsort(-survey.training, kind="stable")] = np.arange(1, trained + 1)
    out["ranks"] = sorted(int(r) for r in rank[known])[:20]
    if survey.threshold is None:
        return out
    flagged = survey.flagged
    out |= {"num_flagged": int((flagged & known).sum())}
    out |= with_interval("recall", rate_interval(flagged[known]))
    out |= with_interval("precision", rate_interval(known[flagged]) if flagged.any() else None)
    return out


class Scored(NamedTuple):
    """A training prompt and its score.

    Attributes:
        prompt: Its id.
        image: File of the first training image with that prompt.
        score: Mean raw magnitude at the first step.
        score_rms: The same over the root of the dimensions.
        flagged: Whether it is above the threshold.
        images: How many different training images have that prompt.
        copies: How often the most repeated of them stands in training.
    """

    prompt: str
    image: str
    score: float
    score_rms: float
    flagged: bool
    images: int
    copies: int


def scored_prompts(survey: Survey, names: Sequence[str]) -> list[tuple[Scored, Mapping[str, Any]]]:
    """Returns every training prompt's score with its row, the loudest first.

    Args:
        survey: Of the training prompts.
        names: File of each training image.
    """
    found, scale = survey.candidates, math.sqrt(survey.dim)
    out = []
    for i in np.argsort(-survey.training, kind="stable"):
        score, row = float(survey.training[i]), found.rows[i]
        flagged, image = bool(survey.flagged[i]), names[found.group[i]]
        counts = int(found.images[i]), int(found.copies[i])
        out.append((Scored(str(row["id"]), image, score, score / scale, flagged, *counts), row))
    return out


class Returned(NamedTuple):
    """A training image that came back.

    Attributes:
        row: Its gallery row.
        image: Its file.
        patient: Its patient, or what stands for one.
        copies: How often it stands in training.
        samples: How many generated images copy it.
        prompts: Of how many prompts.
        distance: The least calibrated distance; a copy is at most 1.
        prompt: Id of the prompt whose image that is.
        generation: Which of its images.
    """

    row: int
    image: str
    patient: str
    copies: int
    samples: int
    prompts: int
    distance: float
    prompt: str
    generation: int


def returned_images(
    audit: Audit, prompts: Prompts, gallery: Gallery, names: Sequence[str]
) -> list[Returned]:
    """Returns the training images of which a copy was generated as asked, the most frequent first.

    Args:
        audit: What was generated.
        prompts: What was asked.
        gallery: The real images.
        names: File of each training image.
    """
    near, generations = audit.before.similarity, audit.before.images.shape[1]
    copied = np.flatnonzero(near.is_copy_adaptive)
    out = []
    for row in np.unique(near.index[copied]):
        own = copied[near.index[copied] == row]
        best = own[np.argmin(near.ratio_adaptive[own])]
        prompt, generation = divmod(int(best), generations)
        out.append(
            Returned(
                int(row),
                names[row],
                str(gallery.patients[row]),
                int(gallery.copies[row]),
                len(own),
                len(np.unique(own // generations)),
                float(near.ratio_adaptive[best]),
                str(prompts.rows[prompt]["id"]),
                generation,
            )
        )
    return sorted(out, key=lambda found: (-found.samples, found.distance))

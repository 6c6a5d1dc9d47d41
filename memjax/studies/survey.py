"""A survey of all training prompts: which are louder than prompts the model never saw?

Nobody need know what was repeated. Every different prompt of the training data, and of held-out
images, is scored at the first step, one evaluation an initial noise; the threshold is fitted on
the held-out ones; the loudest are then asked for.

References:
    Wen et al., ICLR 2024, section 3.2 (the first step alone tells memorized prompts).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from memjax.detectors import NoiseMagnitude, fit_threshold, prepare
from memjax.runs.model import Model
from memjax.runs.options import MAGNITUDE, AuditOptions
from memjax.runs.prompts import encoder
from memjax.runtime.batching import usual_size
from memjax.sampling import SamplingOptions
from memjax.studies.prompts.draw import Candidates
from memjax.studies.rows import measure_rows
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

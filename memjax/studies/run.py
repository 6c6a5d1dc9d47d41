"""The audit: detect, explain, mitigate and validate on one trained model, in one go."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from memjax.core.registry import title_of
from memjax.core.types import Cond
from memjax.evaluate.features.clip_score import ClipScore
from memjax.evaluate.similarity.copy_rules import SimilarityResult
from memjax.mitigations import Problem, Setup
from memjax.mitigations.embedding import states_of
from memjax.runs.options import AuditOptions
from memjax.studies.problems import (
    explain_prompts,
    ordinary_levels,
    problem_of,
    setup_of,
    word_pool,
)
from memjax.studies.prompts.draw import HELD_OUT, LOUDEST, MEMORIZED, ONCE, Prompts
from memjax.studies.store import text_digest
from memjax.studies.study import Observation, Study, observe

AS_ASKED = "as_asked"
CAME_BACK = 0.5  # a prompt came back where at least this share of its images are copies
MOST_MITIGATED = 16  # prompts that are mitigated where nothing is known of them
Say = Callable[[str], None]


class ArmResult(NamedTuple):
    """One mitigation on the memorized prompts, from the same initial noise as before."""

    name: str
    after: Observation
    seconds: float


class Audit(NamedTuple):
    """All that an audit measured.

    Attributes:
        before: All prompts, as they are.
        background: Copy rules on held-out real images.
        memorized: Which prompts are known to be memorized; none where nothing is known.
        label_source: How that is known; "" where it is not.
        significance: Token significance ``[prompt, token]`` of the prompts ``mitigated``; no rows
            where the model has no null condition.
        arms: Mitigations on the prompts ``mitigated``.
        mitigated: Prompts explained and mitigated.
        strata: Class of each prompt.
    """

    before: Observation
    background: SimilarityResult
    memorized: Bool[np.ndarray, " p"]
    label_source: str
    significance: Float[np.ndarray, "e l"]
    arms: list[ArmResult]
    mitigated: np.ndarray
    strata: np.ndarray


def run_audit(
    study: Study,
    prompts: Prompts,
    options: AuditOptions,
    say: Say = lambda text: None,
    *,
    pieces: Sequence[str] = (),
    flagged: Bool[np.ndarray, " p"] | None = None,
) -> Audit:
    """Detects, validates, explains and mitigates: all arms of all prompts, with one store.

    Args:
        study: Model, real images, detectors.
        prompts: What to ask it.
        options: What to measure.
        say: Told what is being done.
        pieces: The tokenizer's, for mitigations that insert them.
        flagged: Which prompts a survey flagged: those are explained and mitigated, with those that
            came back, where nothing is known to be memorized.

    .. note:: Without a null condition images are made from the conditional prediction alone, and
        tokens are not explained; ``options.arms`` must be served, see
        :func:`memjax.studies.without_null.served_options`.
    """
    bundle = study.bundle
    guided = bundle.null_cond is not None
    problem = asked_problem(study, prompts, options)
    captions = _captions(prompts, study.references.clip)
    say(f"detecting: {len(prompts.rows)} prompts, {options.generations} images each")
    before = observe(
        study,
        AS_ASKED,
        problem.size,
        lambda: problem,
        prompts.asked,
        prompts.strata,
        captions,
        prompts.keys,
    )
    memorized = prompts.family == MEMORIZED
    source = "repeated in training" if memorized.any() else ""
    chosen = np.flatnonzero(memorized)
    if not len(chosen):
        chosen = to_mitigate(prompts, before.similarity, options.generations, flagged)
    own, setup = problem.take(chosen), _setup(study, prompts, problem.cond, pieces)
    steps = tuple(options.mitigate_steps)
    states, significance = [], np.zeros((0, 0))
    if guided:
        say(f"explaining: {len(chosen)} prompts")
        states = [states_of(part, setup, steps) for part, _ in own.chunks(options.chunk)]
        significance = explain_prompts(bundle, states, own.cond, options)
    ordinary = np.setdiff1d(prompts.where(ONCE, HELD_OUT), chosen)
    setup = dataclasses.replace(
        setup,
        level=ordinary_levels(before.detection, study.detectors, ordinary),
        known=(own, steps, states) if guided else None,
    )
    arms = [
        _try(name, study, prompts, chosen, own, setup, options, say)
        for name in (options.arms if len(chosen) else ())
    ]
    background = study.references.background
    return Audit(before, background, memorized, source, significance, arms, chosen, prompts.strata)


def asked_problem(study: Study, prompts: Prompts, options: AuditOptions) -> Problem:
    """Returns the sampling problem of prompts as they are asked, from noise that all share."""
    bundle = study.bundle
    key = jax.random.key(options.seed)
    x_T = jax.random.normal(key, (options.generations, *bundle.sample_shape))
    return problem_of(bundle, prompts.rows, bundle.encode(prompts.rows), x_T, study.sampling)


def _setup(study: Study, prompts: Prompts, cond: Cond, pieces: Sequence[str]) -> Setup:
    words = word_pool(prompts.rows)
    return setup_of(
        study.bundle, study.sampling, study.chunk, pool=cond, words=words, pieces=pieces
    )


def _captions(prompts: Prompts, clip: ClipScore | None) -> list[str] | None:
    return None if clip is None else [str(row["caption"]) for row in prompts.rows]


def _try(
    name: str,
    study: Study,
    prompts: Prompts,
    chosen: np.ndarray,
    problem: Problem,
    setup: Setup,
    options: AuditOptions,
    say: Say,
) -> ArmResult:
    """Tries one mitigation on the chosen prompts."""
    say(f"mitigating: {title_of(name)}, {len(chosen)} prompts")
    everyone = prompts.keys
    keys = [everyone[i] for i in chosen]
    timed = f"seconds-{text_digest([name, keys])}"
    known = None if study.store is None else study.store.read(timed)
    seconds = 0.0 if known is None else float(known[1]["seconds"])

    def mitigated() -> Problem:
        nonlocal seconds
        began = time.monotonic()
        key = jax.random.fold_in(jax.random.key(options.seed), 1)
        done = options.chain(name)(problem, setup, key)
        seconds = time.monotonic() - began
        if study.store is not None:
            study.store.keep(timed, {"seconds": np.asarray(seconds)})
        return done

    references = study.references
    if name != options.arms[0]:  # the report climbs the ladder for the chosen one alone
        study = study._replace(against=references._replace(ladder={}))
    captions = _captions(prompts, references.clip)
    asked = None if captions is None else [captions[i] for i in chosen]
    after = observe(
        study,
        name,
        len(chosen),
        mitigated,
        prompts.asked[chosen],
        prompts.strata[chosen],
        asked,
        [text_digest([key, keys]) for key in keys],  # a mitigation may see all of them
    )
    return ArmResult(name, after, seconds)


def to_mitigate(
    prompts: Prompts,
    similarity: SimilarityResult,
    generations: int,
    flagged: Bool[np.ndarray, " p"] | None = None,
) -> Int[np.ndarray, " k"]:
    """Returns what is mitigated where nothing is known: what came back, then what was flagged.

    Args:
        prompts: What was asked.
        similarity: Of their images with the training images.
        generations: Images a prompt.
        flagged: Which prompts a survey flagged.

    Returns:
        At most 16 prompts of training or held-out images, in their order.
    """
    asked = np.isin(prompts.family, (ONCE, HELD_OUT, LOUDEST))
    share = similarity.is_copy_adaptive.reshape(-1, generations).mean(axis=1)
    back = asked & (share >= CAME_BACK)
    wanted = back if flagged is None else back | (asked & flagged)
    order = np.argsort(-share, kind="stable")
    return np.sort(order[wanted[order]][:MOST_MITIGATED])

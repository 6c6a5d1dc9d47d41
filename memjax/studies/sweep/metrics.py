"""One arm of a sweep: how much a trained model copies, and whether the magnitude says so."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from memjax.evaluate.similarity.patients import memorized_patients
from memjax.evaluate.statistics.bootstrap import Interval, cluster_weights, rate_interval
from memjax.evaluate.statistics.roc import detection_summary
from memjax.runs.options import MAGNITUDE, AuditOptions
from memjax.studies.problems import problem_of
from memjax.studies.prompts.draw import (
    HELD_OUT,
    MEMORIZED,
    NEAR_MISS,
    ONCE,
    RANDOM,
    Gallery,
    Prompts,
)
from memjax.studies.rung_statistics import rung_statistics
from memjax.studies.study import Observation, Study, observe

Metrics = dict[str, dict[str, float | int | None]]
_FAMILIES = (MEMORIZED, ONCE, HELD_OUT, NEAR_MISS, RANDOM)


class ArmLook(NamedTuple):
    """What an arm's model made, and what was measured on it.

    Attributes:
        metrics: Name → ``value``, ``low``, ``high`` and ``n``.
        seen: The images and what they were compared with.
        prompts: Id of each prompt.
        families: Family of each prompt.
        captions: Name of each image.
    """

    metrics: Metrics
    seen: Observation
    prompts: Sequence[str]
    families: Sequence[str]
    captions: Sequence[str]


def metric(interval: Interval, n: int) -> dict[str, float | int | None]:
    """Returns an interval as a sweep row holds it."""
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": n}


def measure_conditional(
    study: Study, noise: Float[np.ndarray, "g *d"], prompts: Prompts, options: AuditOptions
) -> ArmLook:
    """Measures a model with conditions: every family of prompts, from the same initial noise.

    Args:
        study: Model, images, ladder.
        noise: Initial noise, shared by all prompts.
        prompts: The prompts.
        options: Windows of the detector.
    """
    cond = study.bundle.encode(prompts.rows)
    problem = problem_of(study.bundle, prompts.rows, cond, noise, study.sampling)
    seen = observe(study, "as_asked", problem.size, lambda: problem, prompts.asked, prompts.strata)
    gallery = study.references.gallery
    generations = seen.images.shape[1]
    clusters = np.repeat(np.arange(len(prompts.rows)), generations)
    metrics = _copies(seen, prompts, gallery) | _shares(seen, gallery, clusters)
    if seen.detection is not None:
        metrics |= _signal(seen, prompts, options)
    judged = np.isfinite(seen.agreement)
    for family in (MEMORIZED, HELD_OUT):
        rows = prompts.where(family)
        keep = judged[rows]
        if keep.any():
            of = np.broadcast_to(rows[:, None], keep.shape)[keep]
            rate = rate_interval(seen.agreement[rows][keep], clusters=of)
            metrics[f"label_agreement_{family}"] = metric(rate, len(rows))
    ids = [str(row["id"]) for row in prompts.rows]
    return ArmLook(metrics, seen, ids, prompts.family.tolist(), [ids[i] for i in clusters])


def measure_unconditional(study: Study, noise: Float[np.ndarray, "g *d"]) -> ArmLook:
    """Measures a model without condition on one image a noise.

    Args:
        study: Model, images, ladder.
        noise: Initial noises.
    """
    count, gallery = len(noise), study.references.gallery
    rows = [{"id": "nothing", "labels": {}}]
    cond = study.bundle.encode(rows)
    asked = np.full((1, gallery.targets.shape[1]), -1)
    problem = problem_of(study.bundle, rows, cond, noise, study.sampling)
    study = study._replace(chunk=1, detectors={})
    seen = observe(study, "as_asked", 1, lambda: problem, asked)
    copies = seen.similarity.is_copy_adaptive
    metrics = {"copy_rate_mix": metric(rate_interval(copies), count)}
    third = rate_interval(seen.similarity.is_copy_third)
    metrics["copy_rate_third_mix"] = metric(third, count)
    metrics |= _shares(seen, gallery, np.arange(count))
    captions = [f"image {i + 1}" for i in range(count)]
    return ArmLook(metrics, seen, ["unconditional"], [""], captions)


def _copies(seen: Observation, prompts: Prompts, gallery: Gallery) -> Metrics:
    """Copy rates of every family, and of prompts drawn as training draws its images."""
    out: Metrics = {}
    rules = {"": seen.similarity.is_copy_adaptive, "third_": seen.similarity.is_copy_third}
    for rule, flags in rules.items():
        table = flags.reshape(len(seen.images), -1)
        for family in _FAMILIES:
            rows = prompts.where(family)
            if len(rows):
                of = np.repeat(rows, table.shape[1])
                rate = rate_interval(table[rows].ravel(), clusters=of)
                out[f"copy_rate_{rule}{family}"] = metric(rate, len(rows))
        repeated, once = prompts.where(MEMORIZED), prompts.where(ONCE)
        if len(repeated) and len(once):
            weight = gallery.copies[gallery.copies > 1].sum() / gallery.copies.sum()
            mixed = mixed_rate([(weight, table[repeated]), (1 - weight, table[once])])
            out[f"copy_rate_{rule}mix"] = metric(mixed, len(repeated) + len(once))
    return out


def mixed_rate(
    parts: Sequence[tuple[float, Shaped[np.ndarray, "p g"]]], *, n: int = 2000, seed: int = 0
) -> Interval:
    """Returns ``Σ w_i · mean_i`` with a bootstrap interval; prompts are resampled within each part.

    Args:
        parts: Weight and the flags ``[prompt, generation]`` of each part; weights sum to 1.
        n: Replicates.
        seed: Of the bootstrap.
    """
    value, drawn = 0.0, np.zeros(n)
    for number, (weight, table) in enumerate(parts):
        rates = np.asarray(table, np.float64).mean(axis=1)
        counts = cluster_weights(None, len(rates), n, seed + number)
        value += weight * float(rates.mean())
        drawn += weight * (counts @ rates) / counts.sum(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _shares(seen: Observation, gallery: Gallery, clusters: np.ndarray) -> Metrics:
    """Dar et al.'s two percentages and the mean likeness, on every rung."""
    out: Metrics = {}
    for name, rung in seen.ladder.items():
        found = memorized_patients(rung.is_copy, rung.index, gallery.patients, conditions=clusters)
        out[f"memorized_share_{name}"] = metric(found.pictures, len(gallery.train))
        out[f"copies_share_{name}"] = metric(found.copies, len(rung.index))
    return out


def _signal(seen: Observation, prompts: Prompts, options: AuditOptions) -> Metrics:
    """AUC of every window, and the magnitude against every rung."""
    out: Metrics = {}
    detection = seen.detection
    if detection is None or MAGNITUDE not in detection.statistics:
        return out  # the windows and rungs are the magnitude's
    usual = prompts.where(MEMORIZED, ONCE, HELD_OUT)
    repeated = prompts.family[usual] == MEMORIZED
    if 0 < repeated.sum() < len(usual):
        scores = {name: detection.scores(window) for name, window in options.windows.items()}
        others = [name for name in detection.statistics if name != detection.name]
        for name, values in (scores | {n: detection.scores(name=n) for n in others}).items():
            found = detection_summary(values[usual], repeated)
            auc = Interval(found["auc"], found["auc_low"], found["auc_high"])
            out[f"auc_{name}"] = metric(auc, len(usual))
    clusters = np.repeat(np.arange(len(prompts.rows)), seen.images.shape[1])
    magnitude = detection.per_generation(options.window, rms=True).ravel()
    for name, rung in seen.ladder.items():
        found = rung_statistics(rung, magnitude, prompts.frequency[clusters], clusters)
        for key in ("spearman", "pearson", "partial", "auc_copied"):
            if found.get(key) is not None:
                value = Interval(found[key], found[f"{key}_low"], found[f"{key}_high"])
                out[f"{key}_{name}"] = metric(value, found["num_pictures"])
    return out

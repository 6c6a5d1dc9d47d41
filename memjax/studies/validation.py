"""Does the warning signal go along with likeness to the training data? On every rung."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax.evaluate.distribution.summary import distribution_report
from memjax.evaluate.features.base import FeatureFn
from memjax.evaluate.similarity.ladder import RungResult
from memjax.evaluate.similarity.patients import dar_summary, memorized_patients
from memjax.evaluate.statistics.bootstrap import difference_interval, rate_interval, with_interval
from memjax.evaluate.statistics.paired import paired_test
from memjax.runs.options import AuditOptions
from memjax.studies.prompts.draw import (
    HELD_OUT,
    MEMORIZED,
    NEAR_MISS,
    ONCE,
    RANDOM,
    SAMPLE,
    Gallery,
    Prompts,
)
from memjax.studies.run import Audit
from memjax.studies.rung_statistics import rung_statistics
from memjax.studies.signal import signal_of
from memjax.studies.summary import ordinary_prompts
from memjax.studies.validation_scores import family_summary

FAMILY_NAMES = {
    MEMORIZED: "repeated in training",
    ONCE: "trained once",
    HELD_OUT: "never trained on",
    NEAR_MISS: "one detail beside a memorized prompt",
    RANDOM: "details mixed at random",
}


def validation_section(
    audit: Audit, prompts: Prompts, gallery: Gallery, options: AuditOptions
) -> dict[str, Any]:
    """Returns ``validation`` of ``report.json``: rungs, negative families, Dar's percentages."""
    ladder = audit.before.ladder
    return {
        "rungs": [_rung(rung, audit, prompts, options) for rung in ladder.values()],
        "families": _families(audit, prompts, options),
        "dar": [_dar(rung, audit, prompts, gallery) for rung in ladder.values()],
    }


def _clusters(prompts: int, generations: int) -> np.ndarray:
    return np.repeat(np.arange(prompts), generations)


def _rung(
    rung: RungResult, audit: Audit, prompts: Prompts, options: AuditOptions
) -> dict[str, Any]:
    signal = signal_of(audit.before.detection, options)
    count, generations = audit.before.images.shape[:2]
    clusters = _clusters(count, generations)
    table = rung.is_copy.reshape(count, generations)
    out = {"name": rung.name, "title": rung.title, "rule": rung.rule, "threshold": rung.threshold}
    if signal is not None:
        drawn = prompts.images(generations)
        values, of = signal.per_generation.ravel()[drawn], clusters[drawn]
        out |= rung_statistics(rung.take(drawn), values, prompts.frequency[of], of)
    for family, rows in (
        ("memorized", np.flatnonzero(audit.memorized)),
        ("other", ordinary_prompts(audit, prompts)),
        (SAMPLE, prompts.where(SAMPLE)),
    ):
        if len(rows):
            rate = rate_interval(table[rows].ravel(), clusters=_clusters(len(rows), generations))
            out |= with_interval(f"copy_rate_{family}", rate)
    out |= with_interval("copy_rate_background", rate_interval(rung.background_is_copy))
    return out | _change(rung, audit)


def _change(rung: RungResult, audit: Audit) -> dict[str, Any]:
    """Returns similarity before and after the chosen mitigation, pair by pair."""
    if not audit.arms:
        return {}
    generations = audit.before.images.shape[1]
    before = rung.similarity.reshape(-1, generations)[audit.mitigated].ravel()
    after = audit.arms[0].after.ladder[rung.name].similarity
    clusters = _clusters(len(audit.mitigated), generations)
    known = np.isfinite(before) & np.isfinite(after)
    test = paired_test(before[known], after[known], clusters[known])
    moved = difference_interval(before[known], after[known], clusters=clusters[known])
    return {
        "similarity_before": float(before[known].mean()),
        "similarity_after": float(after[known].mean()),
        "wilcoxon_p": test.p_value,
        "change": moved.value,
        "change_low": moved.low,
        "change_high": moved.high,
    }


def _families(audit: Audit, prompts: Prompts, options: AuditOptions) -> list[dict[str, Any]]:
    signal = signal_of(audit.before.detection, options)
    if signal is None or audit.memorized.sum() < options.least:
        return []
    family = np.where(audit.memorized, MEMORIZED, prompts.family)
    sizes = collections.Counter(prompts.family[~audit.memorized].tolist())
    names = {
        name: title
        for name, title in FAMILY_NAMES.items()
        if name != MEMORIZED and sizes[name] >= options.least
    }
    if not names:
        return []
    return family_summary(signal.scores, audit.memorized, family, names)


def _dar(rung: RungResult, audit: Audit, prompts: Prompts, gallery: Gallery) -> dict[str, Any]:
    generations = audit.before.images.shape[1]
    drawn = prompts.images(generations)
    rung, conditions = rung.take(drawn), _clusters(len(prompts.rows), generations)[drawn]
    found = memorized_patients(rung.is_copy, rung.index, gallery.patients, conditions=conditions)
    return dar_summary(rung.name, rung.title, found)


def distribution_section(
    audit: Audit, prompts: Prompts, gallery: Gallery, features: Sequence[FeatureFn]
) -> list[dict[str, Any]]:
    """Returns ``distribution``: how all generated images compare with real ones, by features."""
    drawn = audit.before.flat[prompts.images(audit.before.images.shape[1])]
    return [
        distribution_report(
            feature(gallery.train),
            feature(gallery.held_out),
            feature(drawn),
            features=feature.name,
        )
        for feature in features
    ]

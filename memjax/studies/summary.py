"""From an audit's arrays to the sections of ``report.json``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from memjax.core.types import Bundle
from memjax.detectors import fit_threshold
from memjax.evaluate.features.finding_classifier import Judge
from memjax.evaluate.statistics.bootstrap import (
    Interval,
    difference_interval,
    rate_interval,
    with_interval,
)
from memjax.evaluate.statistics.roc import detection_summary
from memjax.explain.words import word_weights
from memjax.runs.options import AuditOptions
from memjax.studies.prompts.draw import HELD_OUT, ONCE, Gallery, Prompts
from memjax.studies.run import ArmResult, Audit
from memjax.studies.signal import signal_of


def audit_results(
    audit: Audit,
    prompts: Prompts,
    gallery: Gallery,
    bundle: Bundle,
    judge: Judge | None,
    options: AuditOptions,
    caption: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Returns the sections of ``report.json`` that the audit measured."""
    return {
        "detection": _detection(audit, prompts, options),
        "similarity": _similarity(audit, prompts, options),
        "mitigation": _mitigation(audit, options),
        "explain": _explain(audit, prompts, bundle, caption),
        **other_detectors(audit, prompts, options),
        **data_sections(gallery, judge),
    }


def ordinary_prompts(audit: Audit, prompts: Prompts) -> np.ndarray:
    """Returns the prompts trained once or held out that are not memorized."""
    rows = prompts.where(ONCE, HELD_OUT)
    return rows[~audit.memorized[rows]]


def standalone_evals(name: str, prompts: int, generations: int, steps: int, first_k: int) -> int:
    """Returns the forward evaluations one detector needs when run by itself."""
    if name == "first_step":
        return generations * (prompts + 1)
    return 2 * prompts * generations * (first_k if name == "first_k" else steps)


def _detection(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    detection, signal = audit.before.detection, signal_of(audit.before.detection, options)
    if detection is None or signal is None:
        return {"label_source": audit.label_source, "generations": options.generations}
    if not signal.is_magnitude:
        return {
            "label_source": audit.label_source,
            "generations": options.generations,
            "forward_evals_run": detection.forward_evals,
            "signal": {"name": signal.name, "title": signal.title},
        }
    usual = audit.memorized | np.isin(prompts.family, (ONCE, HELD_OUT))
    out: dict[str, Any] = {
        "default": options.default,
        "label_source": audit.label_source,
        "generations": options.generations,
        "forward_evals_run": detection.forward_evals,
    }
    count, steps = int(usual.sum()), detection.per_step.shape[-1]
    for name, window in options.windows.items():
        scores = detection.scores(window)
        section = _summary(scores, audit.memorized, usual, options.least)
        for family in (ONCE, HELD_OUT):
            keep = audit.memorized | (prompts.family == family)
            section[f"against_{family}"] = _summary(scores, audit.memorized, keep, options.least)
        section["forward_evals"] = standalone_evals(
            name, count, options.generations, steps, options.first_k
        )
        if name == "first_k":
            section["k"] = options.first_k
        once = scores[(prompts.family == ONCE) & ~audit.memorized]
        if len(once):
            section["threshold"] = fit_threshold(once, options.target_fpr)
            section["threshold_rms"] = section["threshold"] / np.sqrt(detection.dim)
            section["target_fpr"] = options.target_fpr
        out[name] = section
    return out


def other_detectors(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    """Returns every detector beside the magnitude with its figures, where others were asked for."""
    detection, asked = audit.before.detection, options.parsed_detectors()
    usual = audit.memorized | np.isin(prompts.family, (ONCE, HELD_OUT))
    if len(asked) == 1:
        return {}
    rows, missing = [], []
    for name, detector in asked.items():
        if detection is None or name not in detection.statistics:
            missing.append({"name": name, "needs": sorted(detector.needs)})
            continue
        scores = detection.scores(name=name)
        row = {"name": name, "steps": str(detector.steps or "all"), "extra_evals": detector.evals}
        row |= _summary(scores, audit.memorized, usual, options.least)
        for family in (ONCE, HELD_OUT):
            keep = audit.memorized | (prompts.family == family)
            row[f"against_{family}"] = _summary(scores, audit.memorized, keep, options.least)
        rows.append(row)
    return {"detectors": {"rows": rows, "left_out": missing}}


def _summary(scores, memorized, keep, least: int) -> dict[str, Any]:
    """How well a score tells them apart; nothing is claimed from too few of either kind."""
    positive, total = int(memorized[keep].sum()), int(keep.sum())
    if min(positive, total - positive) < max(least, 1):
        empty = dict.fromkeys(
            ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high")
        )
        return {**empty, "num_memorized": positive, "num_other": total - positive}
    return detection_summary(scores[keep], memorized[keep])


def _rate(copies, rows, generations: int) -> Interval | None:
    """Rate over the images of some prompts, clustered by prompt."""
    if not len(rows):
        return None
    table = copies.reshape(-1, generations)[rows]
    return rate_interval(table.ravel(), clusters=np.repeat(np.arange(len(rows)), generations))


def _similarity(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    n = options.generations
    families = {
        "memorized": np.flatnonzero(audit.memorized),
        "other": ordinary_prompts(audit, prompts),
        ONCE: np.flatnonzero((prompts.family == ONCE) & ~audit.memorized),
        HELD_OUT: np.flatnonzero((prompts.family == HELD_OUT) & ~audit.memorized),
    }
    out = rule_rates(audit, families, n)
    own = audit.before.similarity.index.reshape(-1, n) == prompts.group[:, None]
    rest = ordinary_prompts(audit, prompts)
    out |= with_interval("label_agreement_other", _mean_interval(audit.before.agreement[rest]))
    out["nearest_is_own_memorized"] = (
        float(own[audit.memorized].mean()) if audit.memorized.any() else None
    )
    return out


def rule_rates(
    audit: Audit, families: Mapping[str, Int[np.ndarray, " k"]], generations: int
) -> dict[str, Any]:
    """Returns the share of copies by every rule, of families of prompts and of held-out images.

    Args:
        audit: What was measured.
        families: Name → its prompts.
        generations: Images a prompt.
    """
    out: dict[str, Any] = {"rule": "calibrated distance ≤ 1 (alpha 0.5, 50 neighbors)"}
    for suffix, field in {"": "is_copy_adaptive", "_third": "is_copy_third"}.items():
        copies = getattr(audit.before.similarity, field)
        for family, rows in families.items():
            out |= with_interval(f"copy_rate{suffix}_{family}", _rate(copies, rows, generations))
        background = rate_interval(getattr(audit.background, field))
        out |= with_interval(f"copy_rate{suffix}_background", background)
    return out


def _mean_interval(values: np.ndarray) -> Interval | None:
    """Mean over judged images, clustered by prompt."""
    clusters = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    known = np.isfinite(values)
    return rate_interval(values[known], clusters=clusters[known]) if known.any() else None


def _arm(
    arm: ArmResult, audit: Audit, before: dict[str, Any], options: AuditOptions
) -> dict[str, Any]:
    n, rows = options.generations, audit.mitigated
    copies_before = audit.before.similarity.is_copy_adaptive.reshape(-1, n)[rows].ravel()
    copies_after = arm.after.similarity.is_copy_adaptive
    clusters = np.repeat(np.arange(len(rows)), n)
    change = difference_interval(copies_before, copies_after, clusters=clusters)
    return {
        "name": arm.name,
        **before,
        **with_interval("copy_rate_after", rate_interval(copies_after, clusters=clusters)),
        **with_interval("label_agreement_after", _mean_interval(arm.after.agreement)),
        **_clip("clip_after", arm.after.clip),
        **with_interval("copy_rate_change", change),
        **_signal_change(arm, audit, rows, options),
        "seconds": arm.seconds,
        "seconds_per_prompt": arm.seconds / max(len(rows), 1),
    }


def _signal_change(
    arm: ArmResult, audit: Audit, rows: np.ndarray, options: AuditOptions
) -> dict[str, float | None]:
    """Returns the mean of the warning signal before and after, RMS for the magnitude."""
    before = signal_of(audit.before.detection, options)
    after = signal_of(arm.after.detection, options)
    if before is None:
        return {}
    name = "magnitude" if before.is_magnitude else "signal"
    return {
        f"{name}_before": float(before.per_generation.mean(axis=1)[rows].mean()),
        f"{name}_after": None if after is None else float(after.per_generation.mean(axis=1).mean()),
    }


def _clip(name: str, scores: np.ndarray | None) -> dict[str, float | None]:
    """Returns the mean CLIP score, or nothing where there were no weights."""
    return {} if scores is None else with_interval(name, _mean_interval(scores))


def _mitigation(audit: Audit, options: AuditOptions) -> dict[str, Any]:
    if not audit.arms:
        return {
            "method": options.arms[0] if options.arms else None,
            "copy_rate_before": None,
            "copy_rate_after": None,
            "label_agreement_before": None,
            "label_agreement_after": None,
            "arms": [],
        }
    rows, n = audit.mitigated, options.generations
    scores = audit.before.clip
    before = {
        **with_interval(
            "copy_rate_before", _rate(audit.before.similarity.is_copy_adaptive, rows, n)
        ),
        **with_interval("label_agreement_before", _mean_interval(audit.before.agreement[rows])),
        **_clip("clip_before", None if scores is None else scores[rows]),
    }
    arms = [_arm(arm, audit, before, options) for arm in audit.arms]
    chosen = {k: v for k, v in arms[0].items() if k != "name"}
    return {"method": arms[0]["name"], **chosen, "arms": arms}


def data_sections(gallery: Gallery, judge: Judge | None) -> dict[str, Any]:
    """Returns what the training images are, and how far the label classifier can be trusted."""
    classifier = {} if judge is None else {"classifier": _classifier(judge)}
    return {"data": _data(gallery), **classifier}


def _data(gallery: Gallery) -> dict[str, Any]:
    repeated = gallery.copies > 1
    return {
        "num_images": int(gallery.copies.sum()),
        "num_distinct": len(gallery.copies),
        "num_repeated": int(repeated.sum()),
        "repeats": int(np.median(gallery.copies[repeated])) if repeated.any() else None,
    }


def _explain(audit: Audit, prompts: Prompts, bundle: Bundle, caption) -> dict[str, Any]:
    rows = []
    explained = audit.mitigated if len(audit.significance) else ()
    for i, weights in zip(explained, audit.significance, strict=True):
        row = prompts.rows[i]
        words = word_weights(bundle.describe(row), weights)
        share = words.weights / max(float(words.weights.sum()), 1e-12)
        order = np.argsort(-share)
        tokens = [{"token": words.names[k], "share": float(share[k])} for k in order]
        rows.append({"id": row["id"], "caption": caption(row), "tokens": tokens, **words.specials})
    return {"prompts": rows, "note": "the constant first token (BOS) is left out"}


def _classifier(judge: Judge) -> dict[str, Any]:
    return {
        "held_out_auc": dict(zip(judge.names, judge.held_out_auc.tolist(), strict=True)),
        "judged_findings": [n for n, r in zip(judge.names, judge.reliable, strict=True) if r],
    }

"""From an audit's arrays to the report's table and pictures."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memjax.core.types import Bundle
from memjax.detectors import fit_threshold
from memjax.detectors.base import step_window
from memjax.evaluate.audit import ArmResult, Audit, AuditOptions
from memjax.evaluate.audit_inputs import HELD_OUT, ONCE, Gallery, Prompts
from memjax.evaluate.bootstrap import Interval, difference_interval, rate_interval
from memjax.evaluate.figures import (
    magnitude_curves,
    roc_curves,
    similarity_histogram,
    token_bars,
)
from memjax.evaluate.finding_classifier import Judge
from memjax.evaluate.roc import detection_summary
from memjax.evaluate.walls import before_after, pairs_wall

Figures = dict[str, bytes]
_TOKEN_CHARTS = 4
_NAMES = {
    "memorized": "repeated in training",
    ONCE: "trained once",
    HELD_OUT: "never trained on",
}


def audit_results(
    audit: Audit,
    prompts: Prompts,
    gallery: Gallery,
    bundle: Bundle,
    judge: Judge,
    options: AuditOptions,
    caption: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Returns the sections of ``report.json`` that the audit measured."""
    return {
        "detection": _detection(audit, prompts, options),
        "similarity": _similarity(audit, prompts, options),
        "mitigation": _mitigation(audit, options),
        "explain": _explain(audit, prompts, bundle, caption),
        "data": _data(gallery),
        "classifier": _classifier(judge),
    }


def _with_interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _windows(options: AuditOptions) -> dict[str, str | int]:
    return {"first_step": "first", "first_k": options.first_k, "all_steps": "all"}


def standalone_evals(name: str, prompts: int, generations: int, steps: int, first_k: int) -> int:
    """Returns the forward evaluations one detector needs when run by itself."""
    if name == "first_step":
        return generations * (prompts + 1)
    return 2 * prompts * generations * (first_k if name == "first_k" else steps)


def _detection(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    detection, others = audit.detection, prompts.family != "memorized"
    out: dict[str, Any] = {
        "default": options.default,
        "label_source": audit.label_source,
        "generations": options.generations,
        "forward_evals_run": detection.forward_evals,
    }
    count, _, steps = detection.per_step.shape
    for name, window in _windows(options).items():
        scores = detection.scores(window)
        section = _summary(scores, audit.memorized, np.ones(count, bool))
        for family in (ONCE, HELD_OUT):
            keep = audit.memorized | (prompts.family == family)
            section[f"against_{family}"] = _summary(scores, audit.memorized, keep)
        section["forward_evals"] = standalone_evals(
            name, count, options.generations, steps, options.first_k
        )
        if name == "first_k":
            section["k"] = options.first_k
        once = scores[(prompts.family == ONCE) & others & ~audit.memorized]
        if len(once):
            section["threshold"] = fit_threshold(once, options.target_fpr)
            section["threshold_rms"] = section["threshold"] / np.sqrt(detection.dim)
            section["target_fpr"] = options.target_fpr
        out[name] = section
    return out


def _summary(scores, memorized, keep) -> dict[str, Any]:
    positive, total = int(memorized[keep].sum()), int(keep.sum())
    if positive == 0 or positive == total:
        empty = dict.fromkeys(
            ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high")
        )
        return {**empty, "num_memorized": positive, "num_other": total - positive}
    return detection_summary(scores[keep], memorized[keep])


def _rate(copies, rows, generations: int) -> Interval | None:
    """Rate over the pictures of some prompts, clustered by prompt."""
    if not len(rows):
        return None
    table = copies.reshape(-1, generations)[rows]
    return rate_interval(table.ravel(), clusters=np.repeat(np.arange(len(rows)), generations))


def _similarity(audit: Audit, prompts: Prompts, options: AuditOptions) -> dict[str, Any]:
    n = options.generations
    families = {
        "memorized": np.flatnonzero(audit.memorized),
        "other": np.flatnonzero(~audit.memorized),
        ONCE: np.flatnonzero((prompts.family == ONCE) & ~audit.memorized),
        HELD_OUT: np.flatnonzero((prompts.family == HELD_OUT) & ~audit.memorized),
    }
    rules = {"": "is_copy_adaptive", "_third": "is_copy_third"}
    out: dict[str, Any] = {"rule": "calibrated distance ≤ 1 (alpha 0.5, 50 neighbours)"}
    for suffix, field in rules.items():
        copies = getattr(audit.similarity, field)
        for family, rows in families.items():
            out |= _with_interval(f"copy_rate{suffix}_{family}", _rate(copies, rows, n))
        background = rate_interval(getattr(audit.background, field))
        out |= _with_interval(f"copy_rate{suffix}_background", background)
    own = audit.similarity.index.reshape(-1, n) == prompts.group[:, None]
    rest = np.flatnonzero(~audit.memorized)
    out |= _with_interval("label_agreement_other", _mean_interval(audit.agreement[rest]))
    out["nearest_is_own_memorized"] = (
        float(own[audit.memorized].mean()) if audit.memorized.any() else None
    )
    return out


def _mean_interval(values: np.ndarray) -> Interval | None:
    """Mean over judged pictures, clustered by prompt."""
    clusters = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    known = np.isfinite(values)
    return rate_interval(values[known], clusters=clusters[known]) if known.any() else None


def _arm(arm: ArmResult, audit: Audit, before: dict[str, Any], options) -> dict[str, Any]:
    n, rows = options.generations, np.flatnonzero(audit.memorized)
    window = _windows(options)[options.default]
    copies_before = audit.similarity.is_copy_adaptive.reshape(-1, n)[rows].ravel()
    copies_after = arm.similarity.is_copy_adaptive
    clusters = np.repeat(np.arange(len(rows)), n)
    change = difference_interval(copies_before, copies_after, clusters=clusters)
    return {
        "name": arm.name,
        **before,
        **_with_interval("copy_rate_after", rate_interval(copies_after, clusters=clusters)),
        **_with_interval("label_agreement_after", _mean_interval(arm.agreement)),
        **_with_interval("copy_rate_change", change),
        "magnitude_before": float(audit.detection.scores(window, rms=True)[rows].mean()),
        "magnitude_after": float(arm.detection.scores(window, rms=True).mean()),
        "seconds": arm.seconds,
        "seconds_per_prompt": arm.seconds / max(len(rows), 1),
    }


def _mitigation(audit: Audit, options: AuditOptions) -> dict[str, Any]:
    if not audit.arms:
        return {
            "method": options.arms[0],
            "copy_rate_before": None,
            "copy_rate_after": None,
            "label_agreement_before": None,
            "label_agreement_after": None,
            "arms": [],
        }
    rows, n = np.flatnonzero(audit.memorized), options.generations
    before = {
        **_with_interval("copy_rate_before", _rate(audit.similarity.is_copy_adaptive, rows, n)),
        **_with_interval("label_agreement_before", _mean_interval(audit.agreement[rows])),
    }
    arms = [_arm(arm, audit, before, options) for arm in audit.arms]
    chosen = {k: v for k, v in arms[0].items() if k != "name"}
    return {"method": arms[0]["name"], **chosen, "arms": arms}


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
    for i, weights in zip(audit.explained, audit.significance, strict=True):
        names = bundle.describe(prompts.rows[i])
        share = weights[1:] / max(float(weights[1:].sum()), 1e-12)
        order = np.argsort(-share)
        tokens = [{"token": names[1 + k], "share": float(share[k])} for k in order]
        row = prompts.rows[i]
        rows.append({"id": row["id"], "caption": caption(row), "tokens": tokens})
    return {"prompts": rows, "note": "the constant first token (BOS) is left out"}


def _classifier(judge: Judge) -> dict[str, Any]:
    return {
        "held_out_auc": dict(zip(judge.names, judge.held_out_auc.tolist(), strict=True)),
        "judged_findings": [n for n, r in zip(judge.names, judge.reliable, strict=True) if r],
    }


def audit_figures(
    audit: Audit,
    prompts: Prompts,
    gallery: Gallery,
    bundle: Bundle,
    options: AuditOptions,
    caption: Callable[[Mapping[str, Any]], str],
) -> Figures:
    """Returns the report's pictures as PNG bytes, by section.

    Args:
        audit: What was measured.
        prompts: The prompts.
        gallery: Real pictures.
        bundle: The model.
        options: What was asked for.
        caption: Prompt row → one readable line.
    """
    figures = {
        "magnitude": _magnitude_figure(audit, prompts, options),
        "similarity": _similarity_figure(audit, prompts, options),
    }
    if 0 < audit.memorized.sum() < len(audit.memorized):
        figures["roc"] = _roc_figure(audit, options)
    images = _images(bundle, audit.detection.images)
    memorized = np.flatnonzero(audit.memorized)
    score = audit.detection.scores(_windows(options)[options.default])
    ranked = memorized[np.argsort(-score[memorized])]
    if len(ranked):
        figures["pairs"] = _pairs(audit, prompts, gallery, images, ranked[:10], caption)
    others = np.flatnonzero(~audit.memorized)
    if len(others):
        top = others[np.argsort(-score[others])][:5]
        figures["pairs_other"] = _pairs(audit, prompts, gallery, images, top, caption)
    if audit.arms:
        figures["before_after"] = _before_after(
            audit, prompts, gallery, images, bundle, ranked[:10], caption
        )
    shown = np.argsort(-score[audit.explained])[:_TOKEN_CHARTS]
    for i, weights in zip(audit.explained[shown], audit.significance[shown], strict=True):
        names = bundle.describe(prompts.rows[i])[1:]
        markers = [name for name in names if name.startswith("Marker")]
        figures[f"tokens/{caption(prompts.rows[i])}"] = token_bars(
            names, weights[1:], highlight=markers
        )
    return figures


def _images(bundle: Bundle, states: np.ndarray | None) -> np.ndarray:
    return np.asarray(bundle.decode(states))


def _magnitude_figure(audit: Audit, prompts: Prompts, options: AuditOptions) -> bytes:
    rms = audit.detection.per_step.mean(axis=1) / np.sqrt(audit.detection.dim)
    groups = {"memorised": rms[audit.memorized]} if audit.memorized.any() else {}
    for family in (ONCE, HELD_OUT):
        rows = (prompts.family == family) & ~audit.memorized
        if rows.any():
            groups[_NAMES[family]] = rms[rows]
    window = step_window(_windows(options)[options.default], rms.shape[1])
    return magnitude_curves(groups, window=window)


def _roc_figure(audit: Audit, options: AuditOptions) -> bytes:
    titles = {
        "first_step": "first step",
        "first_k": f"first {options.first_k} steps",
        "all_steps": "all steps",
    }
    return roc_curves(
        {
            titles[name]: (audit.detection.scores(window), audit.memorized)
            for name, window in _windows(options).items()
        }
    )


def _similarity_figure(audit: Audit, prompts: Prompts, options: AuditOptions) -> bytes:
    n, ratio = options.generations, audit.similarity.ratio_adaptive
    table = ratio.reshape(-1, n)
    groups = {}
    if audit.memorized.any():
        groups["Generated: memorised prompts"] = table[audit.memorized].ravel()
    for family in (ONCE, HELD_OUT):
        rows = (prompts.family == family) & ~audit.memorized
        if rows.any():
            groups[f"Generated: prompts {_NAMES[family]}"] = table[rows].ravel()
    if audit.arms:
        groups["Generated: memorised prompts, after the repair"] = audit.arms[
            0
        ].similarity.ratio_adaptive
    groups["Real: pictures never trained on"] = audit.background.ratio_adaptive
    return similarity_histogram(groups)


def _best(audit: Audit, generations: int, rows) -> np.ndarray:
    """Returns, per prompt, the picture row nearest to training."""
    table = audit.similarity.ratio_adaptive.reshape(-1, generations)
    return np.asarray([r * generations + int(np.argmin(table[r])) for r in rows])


def _pairs(audit, prompts, gallery, images, rows, caption) -> bytes:
    n = images.shape[1]
    best = _best(audit, n, rows)
    flat = images.reshape(-1, *images.shape[2:])
    return pairs_wall(
        flat[best],
        gallery.train[audit.similarity.index[best]],
        captions=[caption(prompts.rows[r]) for r in rows],
        ratios=audit.similarity.ratio_adaptive[best].tolist(),
        copies=audit.similarity.is_copy_adaptive[best].tolist(),
    )


def _before_after(audit, prompts, gallery, images, bundle, rows, caption) -> bytes:
    n, arm = images.shape[1], audit.arms[0]
    best = _best(audit, n, rows)
    place = {row: i for i, row in enumerate(audit.mitigated)}
    after_rows = np.asarray([place[b // n] * n + b % n for b in best])
    after = _images(bundle, arm.detection.images).reshape(-1, *images.shape[2:])
    notes_before, notes_after = (
        _notes(audit.agreement.ravel(), best),
        _notes(arm.agreement.ravel(), after_rows),
    )
    return before_after(
        gallery.train[audit.similarity.index[best]],
        images.reshape(-1, *images.shape[2:])[best],
        after[after_rows],
        captions=[caption(prompts.rows[r]) for r in rows],
        before_copies=audit.similarity.is_copy_adaptive[best].tolist(),
        after_copies=arm.similarity.is_copy_adaptive[after_rows].tolist(),
        before_notes=notes_before,
        after_notes=notes_after,
    )


def _notes(agreement: np.ndarray, rows: np.ndarray) -> list[str]:
    return [
        "" if np.isnan(agreement[r]) else f"findings as asked: {agreement[r]:.0%}" for r in rows
    ]

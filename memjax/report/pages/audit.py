"""The audit's images, and the numbers behind each of them as columns."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from memjax.core.registry import title_of
from memjax.core.types import Bundle
from memjax.detectors.base import step_window
from memjax.evaluate.similarity.ladder import RungResult
from memjax.evaluate.similarity.resolution import reduced
from memjax.explain.words import word_weights
from memjax.report.charts.curves import (
    magnitude_curves,
    roc_curves,
    similarity_histogram,
    token_bars,
)
from memjax.report.charts.dot_plot import clip_panel, dot_panels, repair_panels
from memjax.report.charts.image_grid import before_after, sorted_wall
from memjax.report.charts.paired import paired_dots
from memjax.report.charts.scatter import family_bars, scatter_with_margins
from memjax.report.tables import (
    dots_table,
    families_table,
    histogram_table,
    magnitude_table,
    paired_table,
    roc_table,
    scatter_table,
    token_table,
    wall_table,
)
from memjax.report.wording import correlation_title, decimal
from memjax.runs.options import MAGNITUDE, AuditOptions
from memjax.studies.prompts.draw import HELD_OUT, LOUDEST, MEMORIZED, ONCE, SAMPLE, Gallery, Prompts
from memjax.studies.run import Audit
from memjax.studies.signal import Signal, signal_of
from memjax.studies.study import Observation
from memjax.studies.summary import ordinary_prompts

Caption = Callable[[Mapping[str, Any]], str]
Columns = dict[str, list[Any]]
_TOKEN_CHARTS, _WALL, _OTHERS = 4, 8, 8
_WALL_SIDE = 400  # pixels of an image on a wall
_SCATTERS = 2  # rungs that get a scatter of their own, at most
_NAMES = {ONCE: "trained once", HELD_OUT: "never trained on"}
_LOUD = "the loudest training prompts"
_COPIES, _NO_COPIES = "copies of training images", "other generated images"
_WINDOWS = {"first_step": "first step", "all_steps": "all steps"}


class Figures(NamedTuple):
    """Images as PNG bytes and the data behind them, under the same keys."""

    images: dict[str, bytes]
    tables: dict[str, Columns]

    def add(self, key: str, png: bytes, table: Columns) -> None:
        """Adds one figure with its data."""
        self.images[key] = png
        self.tables[key] = table


class _Scene(NamedTuple):
    audit: Audit
    prompts: Prompts
    gallery: Gallery
    bundle: Bundle
    options: AuditOptions
    caption: Caption
    results: Mapping[str, Any]

    def text(self, prompt: int) -> str:
        return self.caption(self.prompts.rows[prompt])

    @property
    def samples(self) -> bool:
        """Whether images were made without prompts."""
        return bool((self.prompts.family == SAMPLE).all())

    @property
    def loud_instead(self) -> bool:
        """Whether too little is known to be memorized: the loudest prompts stand for it."""
        few = self.audit.memorized.sum() < self.options.least
        return bool(few and self.prompts.loud.any())

    @property
    def signal(self) -> Signal | None:
        return signal_of(self.audit.before.detection, self.options)

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Which prompts are compared, by name; images of no prompt by whether they are copies."""
        audit, prompts = self.audit, self.prompts
        if self.samples:
            copied = audit.before.similarity.is_copy_adaptive
            kinds = {_COPIES: copied, _NO_COPIES: ~copied}
        else:
            first = {"memorized": audit.memorized}
            if self.loud_instead:
                first = {_LOUD: prompts.loud}
            kinds = first | {
                title: (prompts.family == family) & ~audit.memorized
                for family, title in _NAMES.items()
            }
        return {name: rows for name, rows in kinds.items() if rows.any()}


def audit_figures(
    audit: Audit,
    prompts: Prompts,
    gallery: Gallery,
    bundle: Bundle,
    options: AuditOptions,
    caption: Caption,
    results: Mapping[str, Any],
) -> Figures:
    """Returns the report's figures with their data.

    Args:
        audit: What was measured.
        prompts: The prompts.
        gallery: Real images.
        bundle: The model.
        options: What was asked for.
        caption: Prompt row → one readable line.
        results: The sections of ``report.json``.
    """
    scene = _Scene(audit, prompts, gallery, bundle, options, caption, results)
    out = Figures({}, {})
    for draw in (_walls, _scatters, _family_figure, _repair, _signal, _histogram, _tokens):
        draw(scene, out)
    return out


def _best(scene: _Scene, rows: np.ndarray) -> np.ndarray:
    """Returns, per prompt, the image (one a row) nearest to training."""
    ratio = scene.audit.before.similarity.ratio_adaptive
    generations = scene.audit.before.images.shape[1]
    table = ratio.reshape(-1, generations)
    return np.asarray([r * generations + int(np.argmin(table[r])) for r in rows], int)


def _walls(scene: _Scene, out: Figures) -> None:
    """The nearest image of every memorized prompt, or of any seed; then of other prompts."""
    ordinary = ordinary_prompts(scene.audit, scene.prompts)
    memorized = np.union1d(np.flatnonzero(scene.audit.memorized), scene.prompts.where(SAMPLE))
    if scene.loud_instead:
        memorized = np.flatnonzero(scene.prompts.loud)
    near = scene.audit.before.similarity
    for key, rows, most in (("wall", memorized, _WALL), ("wall_others", ordinary, _OTHERS)):
        if not len(rows):
            continue
        best = _best(scene, rows)
        best = best[np.argsort(near.ratio_adaptive[best], kind="stable")][:most]
        generations = scene.audit.before.images.shape[1]
        captions = [scene.text(row // generations) for row in best]
        likeness, copies = -near.ratio_adaptive[best], near.is_copy_adaptive[best].tolist()
        png = sorted_wall(
            _drawn(scene.audit.before.flat[best]),
            _drawn(scene.gallery.train[near.index[best]]),
            captions=captions,
            similarity=likeness,
            copies=copies,
            measure="distance",
            written=near.ratio_adaptive[best],
        )
        out.add(key, png, wall_table(captions, likeness, copies, near.index[best]))


def _shown_rungs(scene: _Scene) -> list[RungResult]:
    """The copy rule's rung and those that go along best with the magnitude."""
    ladder = scene.audit.before.ladder
    rows = scene.results.get("validation", {}).get("rungs", [])
    ranked = sorted(rows, key=lambda row: -(row.get("spearman") or -2.0))
    names = [n for n in ("adaptive_l2", "copy_encoder") if n in ladder]
    names += [row["name"] for row in ranked if row["name"] not in names]
    return [ladder[name] for name in names[:_SCATTERS]]


def _scatters(scene: _Scene, out: Figures) -> None:
    signal = scene.signal
    if signal is None:
        return
    values = signal.per_generation.ravel()
    generations = signal.per_generation.shape[1]
    family = np.where(scene.audit.memorized, MEMORIZED, scene.prompts.family)
    if scene.samples:
        family = np.where(scene.audit.before.similarity.is_copy_adaptive, _COPIES, _NO_COPIES)
    family = np.repeat(family, generations)
    found = {row["name"]: row for row in scene.results["validation"]["rungs"]}
    label = _signal_label(scene, signal)
    for rung in _shown_rungs(scene):
        row = found[rung.name]
        groups = {
            str(name): (values[family == name], rung.similarity[family == name])
            for name in dict.fromkeys(family.tolist())
            if name != LOUDEST
        }
        title, likeness = correlation_title(row), "Likeness (higher = more alike)"
        png = scatter_with_margins(groups, label, likeness, title, rung.threshold)
        named = {} if signal.is_magnitude else {"x_name": signal.title}
        out.add(f"scatter/{rung.title}", png, scatter_table(groups, **named))


def _signal_label(scene: _Scene, signal: Signal) -> str:
    """What the warning signal's axis says."""
    if not signal.is_magnitude:
        return signal.title.capitalize()
    name = scene.options.default
    window = _WINDOWS.get(name, f"first {scene.options.first_k} steps")
    return f"Pull of the prompt (RMS magnitude, {window})"


def _family_figure(scene: _Scene, out: Figures) -> None:
    families = scene.results.get("validation", {}).get("families", [])
    if any(f.get("auc") is not None for f in families):
        out.add("families", family_bars(families), families_table(families))


def _repair(scene: _Scene, out: Figures) -> None:
    """Images before and after, likeness before and after, and all mitigations."""
    audit = scene.audit
    if not audit.arms:
        return
    _images_before_after(scene, out)
    generations = audit.before.images.shape[1]
    found = {row["name"]: row for row in scene.results["validation"]["rungs"]}
    for rung in _shown_rungs(scene)[:2]:
        before = rung.similarity.reshape(-1, generations)[audit.mitigated].mean(axis=1)
        after = audit.arms[0].after.ladder[rung.name].similarity.reshape(-1, generations)
        names = [scene.text(i) for i in audit.mitigated]
        p_value = found[rung.name].get("wilcoxon_p")
        after = after.mean(axis=1)
        png = paired_dots(before, after, names, rung.title, p_value, threshold=rung.threshold)
        out.add(f"paired/{rung.title}", png, paired_table(before, after, names))
    films = scene.results["data"].get("unit") == "films"
    panels = repair_panels(scene.results["mitigation"], "findings" if films else "labels")
    if panels:
        shares = [True] * len(panels)
        scored = clip_panel(scene.results["mitigation"])
        panels, shares = panels | scored, shares + [False] * len(scored)
        out.add("arms", dot_panels(panels, shares=shares, write_values=True), dots_table(panels))


def _images_before_after(scene: _Scene, out: Figures) -> None:
    audit, arm = scene.audit, scene.audit.arms[0]
    generations = audit.before.images.shape[1]
    best = _best(scene, audit.mitigated)
    order = np.argsort(audit.before.similarity.ratio_adaptive[best], kind="stable")[:10]
    best = best[order]
    after = order * generations + best % generations
    captions = [scene.text(row // generations) for row in best]
    png = before_after(
        _drawn(scene.gallery.train[audit.before.similarity.index[best]]),
        _drawn(audit.before.flat[best]),
        _drawn(arm.after.flat[after]),
        captions=captions,
        before_copies=audit.before.similarity.is_copy_adaptive[best].tolist(),
        after_copies=arm.after.similarity.is_copy_adaptive[after].tolist(),
        before_notes=_notes(audit.before, best),
        after_notes=_notes(arm.after, after),
    )
    ratio = audit.before.similarity.ratio_adaptive[best], arm.after.similarity.ratio_adaptive[after]
    table = paired_table(*ratio, captions, "calibrated distance")
    out.add("before_after", png, table)


def _notes(seen: Observation, rows: np.ndarray) -> list[str]:
    """Under each image: whether it shows what was asked, by the judge or by CLIP."""
    agreement = seen.agreement.ravel()
    if seen.clip is not None:
        scores = seen.clip.ravel()
        return [f"CLIP {decimal(float(scores[r]))}" for r in rows]
    return ["" if np.isnan(agreement[r]) else f"as asked: {agreement[r]:.0%}" for r in rows]


def _drawn(images: np.ndarray) -> np.ndarray:
    """Returns images in [-1, 1], no larger than a wall draws them."""
    return reduced(images, _WALL_SIDE)


def _signal(scene: _Scene, out: Figures) -> None:
    """The warning signal along the trajectory, and ROC curves against ordinary prompts."""
    signal, groups = scene.signal, scene.groups
    if signal is None or not groups:
        return
    curves = {name: signal.curve[rows] for name, rows in groups.items()}
    if signal.is_magnitude:
        window = step_window(scene.options.window, signal.curve.shape[1])
        png, table = magnitude_curves(curves, window=window), magnitude_table(curves)
    else:
        window = step_window(signal.steps, signal.curve.shape[1])
        label, unit = signal.title.capitalize(), "images" if scene.samples else "prompts"
        png = magnitude_curves(curves, window=window, ylabel=label, unit=unit)
        table = magnitude_table(curves, signal.title)
    out.add("magnitude", png, table)
    found = np.any([*groups.values()], axis=0)
    flags = groups.get("memorized", groups.get(_COPIES, np.zeros_like(found)))[found]
    least = 1 if scene.samples else max(scene.options.least, 1)
    if min(flags.sum(), (~flags).sum()) >= least:
        pairs = {name: (scores[found], flags) for name, scores in _scores(scene).items()}
        words = {"found": "Copies found", "others": "other images"} if scene.samples else {}
        out.add("roc", roc_curves(pairs, **words), roc_table(pairs))


def _scores(scene: _Scene) -> dict[str, np.ndarray]:
    """Name → score of each prompt: the magnitude's windows, or all detectors without it."""
    detection = scene.audit.before.detection
    if detection is None:
        return {}
    if MAGNITUDE not in detection.statistics:
        return {title_of(name): detection.scores(name=name) for name in detection.statistics}
    titles = {**_WINDOWS, "first_k": f"first {scene.options.first_k} steps"}
    return {titles[n]: detection.scores(window) for n, window in scene.options.windows.items()}


def _histogram(scene: _Scene, out: Figures) -> None:
    audit = scene.audit
    table = audit.before.similarity.ratio_adaptive.reshape(-1, audit.before.images.shape[1])
    groups = {}
    if scene.samples:
        groups["Generated images"] = table.ravel()
    if scene.loud_instead:
        groups[f"Generated: {_LOUD}"] = table[scene.prompts.loud].ravel()
    elif audit.memorized.any():
        groups["Generated: memorized prompts"] = table[audit.memorized].ravel()
    for family, title in _NAMES.items():
        rows = (scene.prompts.family == family) & ~audit.memorized
        if rows.any():
            groups[f"Generated: prompts {title}"] = table[rows].ravel()
    if audit.arms:
        after = audit.arms[0].after.similarity.ratio_adaptive
        which = "mitigated prompts" if scene.loud_instead else "memorized prompts"
        groups[f"Generated: {which}, after the repair"] = after
    groups["Real: images never trained on"] = audit.background.ratio_adaptive
    out.add("similarity", similarity_histogram(groups), histogram_table(groups))


def _tokens(scene: _Scene, out: Figures) -> None:
    audit, signal = scene.audit, scene.signal
    if signal is None or not len(audit.significance):
        return
    shown = np.argsort(-signal.scores[audit.mitigated])[:_TOKEN_CHARTS]
    for i, weights in zip(audit.mitigated[shown], audit.significance[shown], strict=True):
        words = word_weights(scene.bundle.describe(scene.prompts.rows[i]), weights)
        markers = [name for name in words.names if name.startswith("Marker")]
        if words.names:
            png = token_bars(words.names, words.weights, highlight=markers)
            out.add(f"tokens/{scene.text(i)}", png, token_table(words.names, words.weights))

"""From the flags of ``memjax detect`` to its files."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from memjax.cli.detect import (
    _CHUNK,
    _DETECTORS,
    _FORCE,
    _FPR,
    _INITIAL,
    _MODEL,
    _NEGATIVES,
    _NOISE,
    _NULL,
    _OUT,
    _PROMPTS,
    _RESTART,
    _SAMPLING,
    _STEPS,
)
from memjax.cli.flags import one_line
from memjax.core.types import Detector, Steps
from memjax.detectors import (
    DETECTORS,
    Detection,
    Probe,
    fit_threshold,
    prepare,
    reduce_steps,
    steps_needed,
)
from memjax.evaluate.statistics.roc import detection_summary
from memjax.runs.model import Model
from memjax.runs.outputs import held, model_provenance, progress_bar
from memjax.runs.prompts import (
    check_rows,
    encoder,
    initial_noise,
    read_prompts,
    warn_truncated,
    write_rows,
)
from memjax.runtime.batching import usual_size
from memjax.runtime.devices import mesh_of_prompts
from memjax.runtime.hosts import is_first
from memjax.runtime.json import write_json
from memjax.sampling import SamplingOptions
from memjax.studies.rows import measure_rows
from memjax.studies.store import Store, content_digest, text_digest


def run() -> int:
    """Runs the command."""
    if _DETECTORS.value == ["help"]:
        print(DETECTORS.help())
        return 0
    detectors = DETECTORS.parse_all(_DETECTORS.value)
    if not detectors:
        raise ValueError("--detectors is empty, expected names such as noise_magnitude.")
    rows = read_prompts(_PROMPTS.value)
    negatives = read_prompts(_NEGATIVES.value) if _NEGATIVES.value else []
    reads = (_MODEL.value, _PROMPTS.value, _NEGATIVES.value, _INITIAL.value)
    writes = [_summary_file().name] if negatives else []
    with held(_OUT.value, writes, reads=reads, force=_FORCE.value, kind="file"):
        return _detect(detectors, rows, negatives)


def _detect(detectors: dict[str, Detector], rows: list[dict], negatives: list[dict]) -> int:
    everyone = [*rows, *negatives]
    model = _MODEL.load()
    options = _SAMPLING.options(model).repeatable()
    noise = initial_noise(_INITIAL.value, model.bundle, _NOISE.generations.value, _NOISE.seed.value)
    cut = check_rows(model, everyone)
    null = _NULL.condition(model, _NOISE.seed.value, _MODEL.dtype.value)
    steps = _steps(detectors, options)
    of_images = [name for name, detector in detectors.items() if detector.domain == "images"]
    if of_images and jax.process_count() > 1:
        raise ValueError(
            f"{of_images[0]} looks at finished images and there are {jax.process_count()} "
            "processes, expected one: run it on one host, or leave it out."
        )
    probe = prepare(
        model.bundle.eps_fn,
        model.bundle.params,
        noise,
        null,
        model.bundle.schedule,
        detectors=detectors,
        steps=steps,
        decode=model.bundle.decode,
        **options.static(),
    )
    warn_truncated(cut)
    parts = Store(f"{_OUT.value}.parts", _job(model, options, noise, null, everyone, steps))
    with parts.held() if is_first() else nullcontext():
        if is_first():
            parts.check(_RESTART.value)
        values = _measure(model, probe, everyone, parts)
        made = _made(model, options, probe, len(everyone), cut, steps)
        if is_first():
            named = dict(zip(detectors, np.moveaxis(values, 1, 0), strict=True))
            found = Detection(named, None, made["forward_evals"], probe.dim, probe.windows)
            _write(rows, found, detectors, cut, made)
            parts.remove()
    return 0


def _summary_file() -> Path:
    return Path(_OUT.value).with_suffix(".summary.json")


def _steps(detectors: Mapping[str, Detector], options: SamplingOptions) -> Steps:
    """Returns how far the trajectory runs."""
    given = _STEPS.value
    if given is not None:
        return int(given) if given.isdigit() else given
    needed = steps_needed(detectors, options.num_steps)
    return "all" if needed == options.num_steps else needed


def _others() -> dict[str, Any]:
    """Returns the detectors as outputs say them; nothing for the magnitude alone."""
    return {} if _DETECTORS.value == ["noise_magnitude"] else {"detectors": list(_DETECTORS.value)}


def _job(
    model: Model,
    options: SamplingOptions,
    noise: np.ndarray,
    null: Any,
    rows: list[dict],
    steps: Steps,
) -> dict[str, Any]:
    """Returns everything that decides the scores; how many are computed at once does not."""
    asked = [row.get("labels") if model.pipeline is None else None for row in rows]
    said = [row.get("caption") if a is None else None for a, row in zip(asked, rows, strict=True)]
    return {
        **vars(options),
        **_others(),
        "steps": str(steps),
        "generations": len(noise),
        "dtype": model.dtype,
        "model": content_digest((model.bundle.params, model.bundle.schedule)),
        "noise": content_digest(noise),
        "null condition": content_digest(null),
        "prompts": text_digest([asked, said]),
    }


def _measure(model: Model, probe: Probe, rows: list[dict], parts: Store) -> np.ndarray:
    """Returns ``[row, detector, generation, step]``, those of an earlier, stopped run included."""

    def values_of(numbers: np.ndarray, out: Any) -> np.ndarray:
        found, _ = out
        measured = [reduce_steps(v, probe.windows[name] or "all") for name, v in found.items()]
        if not np.isfinite(measured).all():
            raise ValueError(
                f"the scores of {rows[int(numbers[0])]['id']} and those after it are not finite: "
                "compute in --dtype=float32, or look at the model's weights."
            )
        return np.stack([found[name] for name, _ in probe.detectors], axis=1)

    return measure_rows(
        probe,
        encoder(model, rows),
        len(rows),
        parts,
        values_of,
        size=_CHUNK.value,
        most=usual_size(probe.generations),
        mesh=mesh_of_prompts(model.bundle.params, len(rows)),
        progress=partial(progress_bar, "detecting"),
        say=print,
    )


def _made(
    model: Model,
    options: SamplingOptions,
    probe: Probe,
    count: int,
    cut: list[int] | None,
    steps: Steps,
) -> dict[str, Any]:
    text = {} if cut is None else {"prompts_cut": sum(n > 0 for n in cut)}
    return model_provenance(
        model,
        _NOISE.seed.value,
        sampling=vars(options),
        **_others(),
        steps=str(steps),
        null=_NULL.value,
        initial_noise=Path(_INITIAL.value).name if _INITIAL.value else None,
        forward_evals=probe.forward_evals(count),
        **text,
    )


def _write(
    rows: list[dict],
    found: Detection,
    detectors: Mapping[str, Detector],
    cut: list[int] | None,
    made: dict[str, Any],
) -> None:
    """Writes the rows and, with negatives, the summary; prints the highest scores."""
    scores = {name: found.scores(name=name) for name in detectors}
    main = scores[found.name]
    has_negatives = len(main) > len(rows)
    threshold = fit_threshold(main[len(rows) :], _FPR.value) if has_negatives else None
    out = []
    for i, row in enumerate(rows):
        text = {} if cut is None else {"tokens_cut": cut[i]}
        flag = {} if threshold is None else {"flagged": bool(main[i] > threshold)}
        each = {
            name: _entry(d, float(scores[name][i]), found.statistics[name][i], found.dim)
            for name, d in detectors.items()
        }
        own = each[found.name]
        several = {"detectors": each} if len(each) > 1 else {}
        curve = {"per_step": own["per_step"]}
        head = {name: value for name, value in own.items() if name != "per_step"}
        out.append({**row, **text, **head, **flag, **several, **curve, "provenance": made})
    write_rows(_OUT.value, out)
    print(f"{len(rows)} prompts scored with {made['forward_evals']} forward evaluations")
    _print_top(out, detectors[found.name].is_norm)
    if threshold is not None:
        _summarize(scores, len(rows), detectors, found, made)


def _entry(
    detector: Detector, score: float, per_step: Float[np.ndarray, "g s"], dim: int
) -> dict[str, Any]:
    """Returns what a row says of one detector; steps at which it was not evaluated are null."""
    rms = {"score_rms": score / _scale(detector, dim)} if detector.is_norm else {}
    curve = np.round(per_step.astype(float), 6).tolist()
    known = [[None if math.isnan(v) else v for v in of_noise] for of_noise in curve]
    return {"score": score, **rms, "per_step": known}


def _scale(detector: Detector, dim: int) -> float:
    """Returns what a norm is divided by for its RMS; 1 where it is one already."""
    return 1.0 if getattr(detector, "rms", False) else math.sqrt(dim)


def _print_top(rows: list[dict], rms: bool, most: int = 10) -> None:
    print(f"{'score':>9}{'rms':>10}  prompt" if rms else f"{'score':>9}  prompt")
    for row in sorted(rows, key=lambda r: -r["score"])[:most]:
        flag = "  memorized" if row.get("flagged") else ""
        said = one_line(row["caption"]) if row.get("caption") else ""
        name = f"{row['id']}  {said}".rstrip()
        scaled = f"{row['score_rms']:10.4f}" if rms else ""
        print(f"{row['score']:9.3f}{scaled}  {name}{flag}")


def _summarize(
    scores: Mapping[str, np.ndarray],
    count: int,
    detectors: Mapping[str, Detector],
    found: Detection,
    made: dict,
) -> None:
    figures = {}
    for name, values in scores.items():
        at = fit_threshold(values[count:], _FPR.value)
        detector = detectors[name]
        rms = {"threshold_rms": at / _scale(detector, found.dim)} if detector.is_norm else {}
        memorized = np.arange(len(values)) < count
        figures[name] = {**detection_summary(values, memorized), "threshold": at, **rms}
    own = figures[found.name]
    several = {"detectors": figures} if len(figures) > 1 else {}
    summary = {**own, "target_fpr": _FPR.value, **several, "provenance": made}
    path = _summary_file()
    write_json(path, summary)
    for name, figure in figures.items():
        which = f"{name}: " if several else ""
        print(
            f"{which}prompts against negatives: AUC {figure['auc']:.3f} "
            f"[{figure['auc_low']:.3f}, {figure['auc_high']:.3f}], TPR at 1 % FPR "
            f"{figure['tpr_at_1pct_fpr']:.3f}; threshold {figure['threshold']:.3f}; see {path}"
        )

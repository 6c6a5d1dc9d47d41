"""memjax detect --model=MODEL --prompts=FILE.jsonl --out=SCORES.jsonl

Scores how memorised each prompt is (Wen et al., ICLR 2024). One row a prompt: the row itself with
score, score_rms, per_step ([generation][step]) and provenance. With --negatives also a threshold,
ROC figures in SCORES.summary.json, and a verdict per prompt.

MODEL is a memjax run, a diffusers folder, a single .safetensors file or a hub id; captions are
read by its text encoder, labels by a run. Scores are kept part by part in SCORES.jsonl.parts: a
stopped run goes on with the same command.
"""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from memjax.cli.common import (
    load_model,
    model_provenance,
    one_line,
    out_file,
    progress_bar,
    require,
)
from memjax.cli.cpu_devices import mesh_of_prompts
from memjax.cli.flag_sets import (
    chunk_flag,
    initial_noise_flag,
    model_flags,
    noise_flags,
    prompts_flag,
    sampling_flags,
)
from memjax.cli.models import Model
from memjax.cli.parts import Parts, content_digest, text_digest
from memjax.cli.prompts import check_rows, encoder, initial_noise, read_prompts, say_cut, write_rows
from memjax.core.guidance import CompanionNull, RandomNull
from memjax.detectors import Probe, fit_threshold, prepare
from memjax.evaluate.micro_batch import over_rows, usual_size
from memjax.evaluate.options import SamplingOptions
from memjax.evaluate.roc import detection_summary
from memjax.training.atomic import write_bytes
from memjax.training.hosts import barrier, first_alone, is_first

FLAGS = flags.FlagValues()
_MODEL = model_flags(FLAGS)
_PROMPTS = prompts_flag(FLAGS)
_OUT = flags.DEFINE_string("out", "", "JSONL file to write.", flag_values=FLAGS)
_STEPS = flags.DEFINE_string(
    "steps", "all", "first, a number K (the first K steps) or all.", flag_values=FLAGS
)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "JSONL file of prompts known not to be memorised.", flag_values=FLAGS
)
_NOISE = noise_flags(FLAGS)
_INITIAL = initial_noise_flag(FLAGS)
_SAMPLING = sampling_flags(FLAGS)
_FPR = flags.DEFINE_float(
    "target_fpr", 0.01, "False alarms accepted by the threshold.", flag_values=FLAGS
)
_CHUNK = chunk_flag(FLAGS)
_RESTART = flags.DEFINE_boolean(
    "restart", False, "Discard the parts that a stopped run has kept.", flag_values=FLAGS
)
_NULL = flags.DEFINE_enum(
    "null",
    "trained",
    ["trained", "random_labels", "companion"],
    "What stands for the unconditional prediction.",
    flag_values=FLAGS,
)
_COMPANION = flags.DEFINE_string(
    "companion", "", "Unconditional model, for --null=companion.", flag_values=FLAGS
)
_RANDOM_CONDITIONS = 8


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    out_file(_OUT.value, _PROMPTS.value, _NEGATIVES.value, _INITIAL.value)
    rows = read_prompts(_PROMPTS.value)
    negatives = read_prompts(_NEGATIVES.value) if _NEGATIVES.value else []
    everyone = [*rows, *negatives]
    model = _MODEL.load()
    options = _SAMPLING.options(model)
    noise = initial_noise(_INITIAL.value, model.bundle, _NOISE.generations.value, _NOISE.seed.value)
    cut = check_rows(model, everyone)
    null = _null_cond(model)
    probe = prepare(
        model.bundle.eps_fn,
        model.bundle.params,
        noise,
        null,
        model.bundle.schedule,
        steps=_STEPS.value if not _STEPS.value.isdigit() else int(_STEPS.value),
        **options.static(),
    )
    say_cut(cut)
    parts = Parts(_OUT.value, _job(model, options, noise, null, everyone), len(everyone))
    with parts.held() if is_first() else nullcontext():
        if is_first():
            parts.check(_RESTART.value)
        per_step = _measure(model, probe, everyone, parts)
        made = _made(model, options, probe, len(everyone), cut)
        if is_first():
            _write(rows, per_step, probe.dim, cut, made)
            parts.remove()
    return 0


def _job(
    model: Model, options: SamplingOptions, noise: np.ndarray, null: Any, rows: list[dict]
) -> dict[str, Any]:
    """Returns everything that decides the scores; how many are computed at once does not."""
    asked = [row.get("labels") if model.pipeline is None else None for row in rows]
    said = [row.get("caption") if a is None else None for a, row in zip(asked, rows, strict=True)]
    return {
        **vars(options),
        "steps": _STEPS.value,
        "generations": len(noise),
        "dtype": model.dtype,
        "model": content_digest((model.bundle.params, model.bundle.schedule)),
        "noise": content_digest(noise),
        "null condition": content_digest(null),
        "prompts": text_digest([asked, said]),
    }


def _measure(model: Model, probe: Probe, rows: list[dict], parts: Parts) -> np.ndarray:
    """Returns the magnitudes of all rows, those of an earlier, stopped run included."""
    with first_alone("parts"):
        per_step, todo = parts.read()
    barrier("parts read")
    if len(todo) < len(rows):
        print(f"{len(rows) - len(todo)} of {len(rows)} prompts were scored by an earlier run")
    if is_first():
        parts.start()
    update, done = progress_bar("detecting", len(rows) - len(todo)), len(rows) - len(todo)
    batches = over_rows(
        probe,
        encoder(model, rows),
        todo,
        size=_CHUNK.value,
        most=usual_size(probe.generations),
        mesh=mesh_of_prompts(model.bundle.params, len(todo)),
    )
    for numbers, (scores, _) in batches:
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the scores of {rows[int(numbers[0])]['id']} and those after it are not finite: "
                "compute in --dtype=float32, or look at the model's weights."
            )
        if is_first():
            parts.keep(numbers, scores)
        if per_step is None:
            per_step = np.zeros((len(rows), *scores.shape[1:]), np.float32)
        per_step[numbers] = scores
        done += len(numbers)
        update(done, len(rows))
    if per_step is None:
        raise ValueError("there is no prompt to score: give some.")
    return per_step


def _made(
    model: Model, options: SamplingOptions, probe: Probe, count: int, cut: list[int] | None
) -> dict[str, Any]:
    text = {} if cut is None else {"prompts_cut": sum(n > 0 for n in cut)}
    return model_provenance(
        model,
        _NOISE.seed.value,
        sampling=vars(options),
        steps=_STEPS.value,
        null=_NULL.value,
        initial_noise=Path(_INITIAL.value).name if _INITIAL.value else None,
        forward_evals=probe.forward_evals(count),
        **text,
    )


def _write(
    rows: list[dict],
    per_step: np.ndarray,
    dim: int,
    cut: list[int] | None,
    made: dict[str, Any],
) -> None:
    """Writes the rows and, with negatives, the summary; prints the highest scores."""
    scores = per_step.mean(axis=(1, 2))
    has_negatives = len(scores) > len(rows)
    threshold = fit_threshold(scores[len(rows) :], _FPR.value) if has_negatives else None
    out = []
    for i, row in enumerate(rows):
        text = {} if cut is None else {"tokens_cut": cut[i]}
        flag = {} if threshold is None else {"flagged": bool(scores[i] > threshold)}
        out.append(
            {
                **row,
                **text,
                "score": float(scores[i]),
                "score_rms": float(scores[i] / math.sqrt(dim)),
                **flag,
                "per_step": np.round(per_step[i].astype(float), 6).tolist(),
                "provenance": made,
            }
        )
    write_rows(_OUT.value, out)
    print(f"{len(rows)} prompts scored with {made['forward_evals']} forward evaluations")
    _print_top(out)
    if threshold is not None:
        _summarise(scores, len(rows), threshold, dim, made)


def _null_cond(model: Model) -> Any:
    """Returns what stands for the null condition, as ``--null`` says."""
    if _NULL.value == "trained":
        return model.bundle.null_cond
    if _NULL.value == "companion":
        return _companion(model)
    rng = np.random.default_rng(_NOISE.seed.value)
    sizes = model.label_space.sizes
    ids = np.stack([rng.integers(1, s, _RANDOM_CONDITIONS) for s in sizes], axis=1)
    return RandomNull(model.network.encode_fn(model.bundle.params, ids.astype(np.int32)))


def _companion(model: Model) -> CompanionNull:
    require(companion=_COMPANION.value)
    other = load_model(_COMPANION.value, _MODEL.dtype.value)
    if other.bundle.sample_shape != model.bundle.sample_shape:
        raise ValueError(
            f"--companion={_COMPANION.value} makes pictures of shape "
            f"{other.bundle.sample_shape}, expected {model.bundle.sample_shape}."
        )
    null = other.bundle.null_cond
    if other.run is not None:
        null = other.network.encode_fn(other.bundle.params, other.label_space.null(1))
    return CompanionNull(jax.tree_util.Partial(other.bundle.eps_fn, other.bundle.params), null)


def _print_top(rows: list[dict], most: int = 10) -> None:
    print(f"{'score':>9}  {'rms':>8}  prompt")
    for row in sorted(rows, key=lambda r: -r["score"])[:most]:
        flag = "  memorised" if row.get("flagged") else ""
        said = one_line(row["caption"]) if row.get("caption") else ""
        name = f"{row['id']}  {said}".rstrip()
        print(f"{row['score']:9.3f}  {row['score_rms']:8.4f}  {name}{flag}")


def _summarise(scores: np.ndarray, count: int, threshold: float, dim: int, made: dict) -> None:
    memorized = np.arange(len(scores)) < count
    summary = {
        **detection_summary(scores, memorized),
        "threshold": threshold,
        "threshold_rms": threshold / math.sqrt(dim),
        "target_fpr": _FPR.value,
        "provenance": made,
    }
    path = Path(_OUT.value).with_suffix(".summary.json")
    write_bytes(path, (json.dumps(summary, indent=1) + "\n").encode())
    print(
        f"prompts against negatives: AUC {summary['auc']:.3f} "
        f"[{summary['auc_low']:.3f}, {summary['auc_high']:.3f}], TPR at 1 % FPR "
        f"{summary['tpr_at_1pct_fpr']:.3f}; threshold {threshold:.3f}; see {path}"
    )

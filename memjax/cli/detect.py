"""memjax detect --model=RUN --prompts=FILE.jsonl --out=SCORES.jsonl

Scores how memorised each prompt is (Wen et al., ICLR 2024). One row a prompt: the row itself with
score, score_rms, per_step ([generation][step]) and provenance. With --negatives also a threshold,
ROC figures in SCORES.summary.json, and a verdict per prompt.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from absl import flags

from memjax.cli.common import (
    load_model,
    model_provenance,
    out_file,
    progress_bar,
    require,
    sampling_options,
)
from memjax.cli.prompts import initial_noise, read_prompts, write_rows
from memjax.core.guidance import CompanionNull, RandomNull
from memjax.core.types import TokenCond
from memjax.detectors import detect, fit_threshold
from memjax.evaluate.roc import detection_summary
from memjax.training.atomic import write_bytes
from memjax.training.run import Run

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "Folder of a trained run.", flag_values=FLAGS)
_PROMPTS = flags.DEFINE_string(
    "prompts", "", "JSONL file with one prompt a line.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "JSONL file to write.", flag_values=FLAGS)
_STEPS = flags.DEFINE_string(
    "steps", "all", "first, a number K (the first K steps) or all.", flag_values=FLAGS
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 4, "Initial noises a prompt.", lower_bound=1, flag_values=FLAGS
)
_NEGATIVES = flags.DEFINE_string(
    "negatives", "", "JSONL file of prompts known not to be memorised.", flag_values=FLAGS
)
_NOISE = flags.DEFINE_string(
    "initial_noise",
    "",
    ".npy, float32 [generations, height, width, channels], shared by all.",
    flag_values=FLAGS,
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Steps of the trajectory (default: the run's).", flag_values=FLAGS
)
_SCALE = flags.DEFINE_float(
    "guidance_scale", None, "Guidance scale (default: the run's).", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=FLAGS)
_FPR = flags.DEFINE_float(
    "target_fpr", 0.01, "False alarms accepted by the threshold.", flag_values=FLAGS
)
_CHUNK = flags.DEFINE_integer(
    "chunk", 16, "Prompts evaluated together.", lower_bound=1, flag_values=FLAGS
)
_NULL = flags.DEFINE_enum(
    "null",
    "trained",
    ["trained", "random_labels", "companion"],
    "What stands for the unconditional prediction.",
    flag_values=FLAGS,
)
_COMPANION = flags.DEFINE_string(
    "companion", "", "Unconditional run, for --null=companion.", flag_values=FLAGS
)
_RANDOM_CONDITIONS = 8


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    out_file(_OUT.value, _PROMPTS.value, _NEGATIVES.value, _NOISE.value)
    rows = read_prompts(_PROMPTS.value)
    negatives = read_prompts(_NEGATIVES.value) if _NEGATIVES.value else []
    run = load_model(_MODEL.value)
    bundle, g = run.bundle, _GENERATIONS.value
    options = sampling_options(run, _NUM_STEPS.value, _SCALE.value)
    noise = initial_noise(_NOISE.value, bundle, g, _SEED.value)
    cond = bundle.encode([*rows, *negatives])
    found = detect(
        bundle.eps_fn,
        bundle.params,
        noise,
        cond,
        _null_cond(run, cond),
        bundle.schedule,
        steps=_STEPS.value if not _STEPS.value.isdigit() else int(_STEPS.value),
        chunk=_CHUNK.value,
        progress=progress_bar("detecting"),
        **options.static(),
    )
    per_step, scores = found.per_step, found.per_step.mean(axis=(1, 2))
    made = model_provenance(
        run,
        _SEED.value,
        sampling=vars(options),
        steps=_STEPS.value,
        null=_NULL.value,
        initial_noise=Path(_NOISE.value).name if _NOISE.value else None,
        forward_evals=found.forward_evals,
    )
    threshold = fit_threshold(scores[len(rows) :], _FPR.value) if negatives else None
    out = []
    for i, row in enumerate(rows):
        extra = {} if threshold is None else {"flagged": bool(scores[i] > threshold)}
        out.append(
            {
                **row,
                "score": float(scores[i]),
                "score_rms": float(scores[i] / math.sqrt(found.dim)),
                **extra,
                "per_step": np.round(per_step[i].astype(float), 6).tolist(),
                "provenance": made,
            }
        )
    write_rows(_OUT.value, out)
    print(f"{len(rows)} prompts scored with {found.forward_evals} forward evaluations")
    _print_top(out)
    if threshold is not None:
        _summarise(scores, len(rows), threshold, found.dim, made)
    return 0


def _null_cond(run: Run, cond: TokenCond):
    """Returns what stands for the null condition, as ``--null`` says."""
    if _NULL.value == "trained":
        return run.bundle.null_cond
    if _NULL.value == "companion":
        require(companion=_COMPANION.value)
        other = load_model(_COMPANION.value)
        if other.bundle.sample_shape != run.bundle.sample_shape:
            raise ValueError(
                f"--companion={_COMPANION.value} makes pictures of shape "
                f"{other.bundle.sample_shape}, expected {run.bundle.sample_shape}."
            )
        null = other.network.encode_fn(other.bundle.params, other.label_space.null(1))
        return CompanionNull(jax.tree_util.Partial(other.bundle.eps_fn, other.bundle.params), null)
    rng = np.random.default_rng(_SEED.value)
    sizes = run.label_space.sizes
    ids = np.stack([rng.integers(1, s, _RANDOM_CONDITIONS) for s in sizes], axis=1)
    return RandomNull(run.network.encode_fn(run.bundle.params, ids.astype(np.int32)))


def _print_top(rows: list[dict], most: int = 10) -> None:
    print(f"{'score':>9}  {'rms':>8}  prompt")
    for row in sorted(rows, key=lambda r: -r["score"])[:most]:
        flag = "  memorised" if row.get("flagged") else ""
        print(f"{row['score']:9.3f}  {row['score_rms']:8.4f}  {row['id']}{flag}")


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

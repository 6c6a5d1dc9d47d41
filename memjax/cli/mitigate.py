"""memjax mitigate --model=RUN --prompts=FILE.jsonl --out=DIR

Optimises each prompt's embedding until it no longer pulls towards one picture (Wen et al., ICLR
2024), and shows before and after from the same noise. Writes embeddings.npz, mitigated.jsonl and
before_after.png.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags

from memjax.cli.common import (
    load_model,
    model_provenance,
    out_folder,
    progress_bar,
    require,
    sampling_options,
)
from memjax.cli.prompts import initial_noise, read_prompts, write_rows
from memjax.cli.training import audit_options
from memjax.core.condition import embeddings_of
from memjax.detectors import detect, null_or_refuse
from memjax.evaluate.options import ARMS, FIRST_STEP, AuditOptions
from memjax.evaluate.repair import mitigate_prompts, ordinary_level
from memjax.training.atomic import write_bytes
from memjax.training.samples import write_grid

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", "", "Folder of a trained run.", flag_values=FLAGS)
_PROMPTS = flags.DEFINE_string(
    "prompts", "", "JSONL file with one prompt a line.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Folder for the results.", flag_values=FLAGS)
_METHOD = flags.DEFINE_enum("method", ARMS[0], ARMS, "Which mitigation.", flag_values=FLAGS)
_AT = flags.DEFINE_list(
    "steps", None, "Step indices to minimise over (default: the run's).", flag_values=FLAGS
)
_ITERS = flags.DEFINE_integer(
    "num_iters", None, "Updates (default: the run's).", lower_bound=1, flag_values=FLAGS
)
_RATE = flags.DEFINE_float(
    "learning_rate", None, "AdamW's rate (default: the run's).", flag_values=FLAGS
)
_TARGET = flags.DEFINE_float(
    "target", None, "Stop a prompt at this raw magnitude.", flag_values=FLAGS
)
_TARGET_RMS = flags.DEFINE_float(
    "target_rms", None, "Stop a prompt at this RMS magnitude.", flag_values=FLAGS
)
_RADIUS = flags.DEFINE_float(
    "radius", None, "Keep the embedding in an l2 ball of this radius.", flag_values=FLAGS
)
_NEGATIVES = flags.DEFINE_string(
    "negatives",
    "",
    "JSONL file of prompts that are not memorised: stop at their mean magnitude.",
    flag_values=FLAGS,
)
_PROTECT = flags.DEFINE_list(
    "protect",
    None,
    "Labels whose tokens stay fixed, e.g. findings,View (default: the run's).",
    flag_values=FLAGS,
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", 4, "Pictures a prompt.", lower_bound=1, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", flag_values=FLAGS)


def _options(options: AuditOptions, dim: int) -> AuditOptions:
    """Returns the run's options with the command line's changes."""
    if _TARGET.value is not None and _TARGET_RMS.value is not None:
        raise ValueError("--target and --target_rms are both given: give one of them.")
    target = _TARGET_RMS.value
    if _TARGET.value is not None:
        target = _TARGET.value / dim**0.5
    changes: dict[str, Any] = {
        "mitigate_steps": _step_indices(),
        "num_iters": _ITERS.value,
        "first_step_iters": _ITERS.value,
        "learning_rate": _RATE.value,
        "first_step_learning_rate": _RATE.value,
        "target_rms": target,
        "radius": _RADIUS.value,
        "protect": None if _PROTECT.value is None else tuple(_PROTECT.value),
        "generations": _GENERATIONS.value,
        "seed": _SEED.value,
    }
    return dataclasses.replace(options, **{k: v for k, v in changes.items() if v is not None})


def _step_indices() -> tuple[int, ...] | None:
    given = _AT.value or []
    try:
        return tuple(int(s) for s in given) or None
    except ValueError as error:
        raise ValueError(f"--steps={','.join(given)}: expected step indices.") from error


def main() -> int:
    """Runs the command."""
    require(model=_MODEL.value, prompts=_PROMPTS.value, out=_OUT.value)
    rows = read_prompts(_PROMPTS.value)
    negatives = read_prompts(_NEGATIVES.value) if _NEGATIVES.value else []
    run = load_model(_MODEL.value)
    bundle, sampling = run.bundle, sampling_options(run)
    null = null_or_refuse(bundle.null_cond)
    dim = int(np.prod(bundle.sample_shape))
    options = _options(audit_options(run.config), dim)
    cond = bundle.encode(rows)
    folder = out_folder(_OUT.value)
    noise = initial_noise(None, bundle, _GENERATIONS.value, _SEED.value)
    measure = partial(
        detect,
        bundle.eps_fn,
        bundle.params,
        noise,
        null_cond=null,
        schedule=bundle.schedule,
        chunk=options.chunk,
        **sampling.static(),
    )
    before = measure(cond=cond, progress=progress_bar("before"))
    target = options.target_rms or 0.0
    if negatives:
        ordinary = measure(cond=bundle.encode(negatives), progress=progress_bar("negatives"))
        steps = (0,) if _METHOD.value == FIRST_STEP else options.mitigate_steps
        target = options.target_ordinary * ordinary_level(ordinary.per_step, steps, dim)
    print(f"target: RMS magnitude {target:.4f}" + ("" if target else " (all updates are run)"))
    mitigated = mitigate_prompts(
        _METHOD.value,
        bundle,
        noise,
        rows,
        cond,
        cond,
        sampling,
        options,
        target_rms=target,
    )
    after = measure(cond=mitigated, progress=progress_bar("after"))
    made = model_provenance(
        run, _SEED.value, sampling=vars(sampling), method=_METHOD.value, options=vars(options)
    )
    out = []
    scores = before.scores(), after.scores()
    for i, row in enumerate(rows):
        print(f"{row['id']}: magnitude {scores[0][i]:.3f} -> {scores[1][i]:.3f}")
        out.append(
            {
                **row,
                "magnitude_before": float(scores[0][i]),
                "magnitude_after": float(scores[1][i]),
                "provenance": made,
            }
        )
    embeddings = folder / "embeddings.npz"
    _write_npz(
        embeddings,
        ids=np.asarray([row["id"] for row in rows]),
        before=np.asarray(jax.device_get(embeddings_of(cond))),
        after=np.asarray(jax.device_get(embeddings_of(mitigated))),
    )
    write_rows(folder / "mitigated.jsonl", out)
    pairs = np.concatenate([before.images, after.images], axis=1)
    write_grid(
        folder / "before_after.png",
        np.asarray(bundle.decode(pairs.reshape(-1, *pairs.shape[2:]))),
        columns=pairs.shape[1],
    )
    print(f"left half before, right half after: {folder / 'before_after.png'}")
    return 0


def _write_npz(path, **arrays: np.ndarray) -> None:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())

"""From the flags of ``memjax mitigate`` to its files."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax.cli.flags import ModelFlags, NullFlags, SamplingFlags
from memjax.cli.mitigate_output import FILES, write_outputs
from memjax.core.mesh import prompts_mesh
from memjax.detectors import null_or_refuse
from memjax.report.charts.mitigation_grid import shown_columns
from memjax.runs.model import Model
from memjax.runs.outputs import held, model_provenance, progress_bar
from memjax.runs.prompts import check_rows, encoder, initial_noise, read_prompts, warn_truncated
from memjax.runs.references import reference_paths
from memjax.runtime.batching import exhausted, spread_bundle, usual_size
from memjax.runtime.hosts import gather, is_first
from memjax.sampling import SamplingOptions
from memjax.studies.fitting import fitting
from memjax.studies.mitigation.asked import (
    Asked,
    chains_of,
    check,
    measures_of,
    options_of,
    pools_of,
    targets_of,
    whole_numbers,
)
from memjax.studies.mitigation.job import Job, Measured, arm_problems
from memjax.studies.mitigation.options import Setting, baseline_arms, chain_arms, make_setting
from memjax.studies.mitigation.records import Measures
from memjax.studies.problems import check_methods, problem_of, trainable_tokens
from memjax.studies.store import Store, content_digest
from memjax.studies.study import Part, run_arms

_PARTS = "parts"  # folder of the chunks that are done
_WALLS = 24  # prompts that the page shows with images


def mitigate(
    model_flags: ModelFlags,
    sampling_flags: SamplingFlags,
    null_flags: NullFlags,
    asked: Asked,
    *,
    force: bool = False,
) -> int:
    """Runs the command."""
    rows = read_prompts(asked.prompts)
    negatives = read_prompts(asked.negatives) if asked.negatives else []
    references = reference_paths(rows, asked.prompts, asked.references)
    check(asked, rows)
    writes = [*FILES, *(["pictures"] if asked.pictures else [])]
    reads = [model_flags.value, asked.prompts, asked.negatives, asked.references]
    reads += [asked.initial_noise, asked.sscd, asked.clip]
    with held(asked.out, writes, reads=reads, force=force):
        measures = measures_of(asked, references)
        return _mitigate(
            model_flags, sampling_flags, null_flags, asked, rows, negatives, references, measures
        )


def _mitigate(
    model_flags: ModelFlags,
    sampling_flags: SamplingFlags,
    null_flags: NullFlags,
    asked: Asked,
    rows: list[dict[str, Any]],
    negatives: list[dict[str, Any]],
    references: list[list[Path]],
    measures: Measures,
) -> int:
    mesh = prompts_mesh(local=True)
    model = null_flags.apply(model_flags.load(), asked.seed, model_flags.dtype.value)
    model = model._replace(bundle=spread_bundle(model.bundle, mesh))
    null_or_refuse(model.bundle.null_cond)
    warn_truncated(check_rows(model, rows))
    check_rows(model, negatives)
    job = _job(
        model,
        sampling_flags.options(model).repeatable(),
        asked,
        rows,
        negatives,
        references,
        measures,
    )
    job = job._replace(mesh=mesh)
    made = _made(job)
    with Store(Path(asked.out) / _PARTS, {}).held() if is_first() else nullcontext():
        job, parts, done = _all_arms(job, asked, made)
        if is_first():
            write_outputs(Path(asked.out), job, done, made, several=asked.several)
            parts.remove()
    return 0


def _job(
    model: Model,
    sampling: SamplingOptions,
    asked: Asked,
    rows: list[dict[str, Any]],
    negatives: list[dict[str, Any]],
    references: list[list[Path]],
    measures: Measures,
) -> Job:
    options = options_of(model, asked)
    steps = whole_numbers(asked.steps, "steps")
    chains = chains_of(asked, options)
    setting = None
    if asked.method is not None or not chains:
        setting = make_setting(
            model,
            options,
            method=asked.method,
            steps=steps,
            weight_decay=asked.weight_decay,
            protect=asked.protect,
        )
        trainable_tokens(model.bundle, rows[:1], setting.protect)
    noise = initial_noise(asked.initial_noise, model.bundle, asked.generations, asked.seed)
    arms = baseline_arms(
        asked.baselines, whole_numbers(asked.insertions, "insertions"), options.noise_scale
    )
    targets = targets_of(model, asked, negatives, noise, sampling, options, setting)
    if setting is not None and setting.optimizes:
        said = ", ".join(f"{t.rms:.4f}" for t in targets)
        all_updates = "" if targets[0].rms else " (all updates are run)"
        print(f"target: RMS magnitude {said}{all_updates}")
    repairs = 0 if setting is None else len(targets) if setting.optimizes else 1
    repairs += len(chains)
    cond = encoder(model, rows)(range(len(rows)))
    job = Job(
        model=model,
        rows=rows,
        problem=problem_of(model.bundle, rows, cond, noise, sampling),
        sampling=sampling,
        setting=setting,
        chains=chains,
        options=options,
        targets=targets,
        baselines=arms,
        references=references,
        measures=measures,
        pools=pools_of(model, [*rows, *negatives], [*arms, *chain_arms(chains)]),
        chunk=asked.chunk,
        frugal=False,
        shown=shown_columns(repairs, len(arms), asked.generations, any(references)),
        walls=_WALLS,
        folder=Path(asked.out) / "pictures" if asked.pictures else None,
    )
    keys = [arm.key for arm in job.arms]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the arm {key} was asked for twice: leave one of them out.")
    text = model.pipeline is not None
    text = text or bool(rows[0].get("caption"))
    check_methods({}, chains, sampling.num_steps, text=text, generations=asked.generations)
    return job


def _made(job: Job) -> dict[str, Any]:
    """Returns what made the outputs."""
    return model_provenance(
        job.model,
        job.options.seed,
        sampling=vars(job.sampling),
        **_method(job.setting),
        **({"mitigations": [chain.text for chain in job.chains]} if job.chains else {}),
        options=vars(job.options),
        targets_rms=[target.rms for target in job.targets] if _optimizes(job) else [],
        measures=job.measures.names,
    )


def _method(setting: Setting | None) -> dict[str, Any]:
    if setting is None:
        return {}
    return {"method": setting.method, "repair": dataclasses.asdict(setting)}


def _optimizes(job: Job) -> bool:
    return job.setting is not None and job.setting.optimizes


def _all_arms(
    job: Job, asked: Asked, made: dict[str, Any]
) -> tuple[Job, Store, dict[str, list[Part]]]:
    """Runs all arms, on fewer prompts at a time where the device's memory runs out."""
    job, folder = _fitting(job, asked), Path(asked.out) / _PARTS
    old = [f for f in folder.glob("*-?????.npz") if not f.name.startswith("part-")]
    if old:
        print(f"{folder} holds {len(old)} parts of memjax 0.1, which are not used: remove them.")
    store = Store(folder, _fingerprint(job, made))
    progress = progress_bar("mitigating")
    while True:
        study = job.study(store, lambda _: progress)
        try:
            return job, store, run_arms(study, arm_problems(job), len(job.rows), Measured(job))
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not exhausted(error) or jax.process_count() > 1:
                raise
            job = _smaller(job, asked, error)


def _fitting(job: Job, asked: Asked) -> Job:
    """Returns the job with as many prompts at a time as fit: the given number, or a found one.

    The same in all processes.
    """
    job = _fitting_here(job, asked)
    size = int(gather(np.int32(job.chunk)).min())
    if jax.process_count() > 1:  # every process needs a chunk of its own
        size = max(1, min(size, len(job.rows) // jax.process_count()))
    return job._replace(chunk=size)


def _fitting_here(job: Job, asked: Asked) -> Job:
    if asked.chunk or job.model.run is not None:
        size = asked.chunk or job.options.chunk
        return job._replace(chunk=min(size, len(job.rows)))
    count = len(job.rows)
    if job.setting is None or not job.setting.optimizes:
        return job._replace(chunk=min(usual_size(asked.generations), count))
    steps, iters = len(job.setting.steps), job.setting.num_iters
    size, frugal = fitting(job.model, asked.generations, steps, iters, count, len(job.targets))
    return job._replace(chunk=size, frugal=frugal)


def _smaller(job: Job, asked: Asked, error: BaseException) -> Job:
    """Returns the job with half the prompts at a time, then with one image at a time.

    Raises:
        ValueError: If neither is left to try.
    """
    if asked.chunk:
        raise ValueError(
            f"--chunk={asked.chunk} prompts at once do not fit into the device's memory: give a "
            "smaller --chunk, or 0 to take what fits."
        ) from error
    if job.chunk > 1:
        return job._replace(chunk=-(-job.chunk // 2))
    if not job.frugal:
        return job._replace(frugal=True)
    raise ValueError(
        "the device's memory does not hold one prompt at a time: lower --generations, or compute "
        "in --dtype=bfloat16."
    ) from error


def _fingerprint(job: Job, made: dict[str, Any]) -> dict[str, Any]:
    """Returns what decides the parts: prompts, settings and noise."""
    fixed = {name: value for name, value in made.items() if name not in ("utc", "versions")}
    bundle = job.model.bundle
    substitute = [bundle.null_cond] if "null" in bundle.info else []
    return {
        "made": fixed,
        "rows": job.rows,
        "arms": [list(arm) for arm in job.arms],
        "references": [[str(p) for p in paths] for paths in job.references],
        "numbers": content_digest((bundle.params, job.problem.x_T, *substitute)),
    }

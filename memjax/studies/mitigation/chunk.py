"""Repairs prompts chunk by chunk: pictures before and after, and what they are measured with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from memjax.core.condition import embeddings_of, take_rows
from memjax.core.registry import title_of
from memjax.core.types import Array, Cond
from memjax.evaluate.similarity.measures import rows_of
from memjax.evaluate.similarity.resolution import small
from memjax.mitigations import (
    Chain,
    Problem,
    Setup,
    add_embedding_noise,
    add_random_numbers,
    add_random_tokens,
    add_random_words,
    repeat_words,
)
from memjax.runs.model import Model, with_remat
from memjax.runs.options import AuditOptions
from memjax.runs.outputs import safe_names
from memjax.runs.references import load_references
from memjax.runtime.batching import over_devices
from memjax.runtime.files import write_bytes
from memjax.sampling import SamplingOptions
from memjax.studies.mitigation.options import (
    EMBEDDING_NOISE,
    Setting,
    Target,
    before_arm,
    chain_arms,
)
from memjax.studies.mitigation.records import NAMED, Arm, Measures, make_pictures, measured
from memjax.studies.mitigation.targets import TargetedRepair, repair_targets
from memjax.studies.problems import problem_of, setup_of, trainable_tokens
from memjax.training.logging import png_bytes

Row = dict[str, Any]


class Part(NamedTuple):
    """What one chunk of prompts gave.

    Attributes:
        records: One a prompt and arm.
        arrays: ``after`` ``[k, p, l, d]`` (embeddings) and the images that a wall shows.
    """

    records: list[Row]
    arrays: dict[str, np.ndarray]


class Job(NamedTuple):
    """Everything that stays the same from chunk to chunk.

    Attributes:
        model: The model.
        rows: All prompts.
        cond: Their conditions.
        noise: Initial noises, shared by all prompts.
        sampling: How pictures are made.
        setting: How prompts are repaired; None where only ``chains`` are tried.
        chains: Mitigations by name, each an arm of its own.
        options: The run's, for the baselines.
        targets: Where prompts are left; one stands for methods without targets.
        baselines: Arms of the baselines.
        references: Paths of every prompt's training pictures.
        measures: What pictures are measured with.
        pools: What the text baselines draw from: ``words`` and ``pieces``.
        chunk: Prompts at a time.
        frugal: Optimise one picture at a time and recompute blocks, where memory is short.
        shown: Columns and generations of the wall, see :func:`shown_columns`.
        walls: How many prompts a wall shows.
        folder: Where pictures go, or None to keep none.
        whole: All prompts under each chain that does not evaluate the network, once made.
        mesh: Devices over which the prompts of a chunk are spread, or None for one.
    """

    model: Model
    rows: Sequence[Row]
    cond: Cond
    noise: np.ndarray
    sampling: SamplingOptions
    setting: Setting | None
    chains: Sequence[Chain]
    options: AuditOptions
    targets: Sequence[Target]
    baselines: Sequence[Arm]
    references: Sequence[Sequence[Path]]
    measures: Measures
    pools: Mapping[str, Sequence[str]]
    chunk: int
    frugal: bool
    shown: tuple[Sequence[int], int]
    walls: int
    folder: Path | None
    whole: dict[str, Problem]
    mesh: Mesh | None = None

    @property
    def repairs(self) -> list[Arm]:
        """The arms of the repairs."""
        return [*self._method_arms, *chain_arms(self.chains)]

    @property
    def _method_arms(self) -> list[Arm]:
        if self.setting is None:
            return []
        if self.setting.optimizes:
            return [target.arm for target in self.targets]
        method = self.setting.method
        return [Arm(method, title_of(method), NAMED)]

    @property
    def problem(self) -> Problem:
        """All prompts as they were asked."""
        return problem_of(self.model.bundle, self.rows, self.cond, self.noise, self.sampling)

    @property
    def setup(self) -> Setup:
        """What mitigations may use."""
        return setup_of(
            with_remat(self.model.bundle) if self.frugal else self.model.bundle,
            self.sampling,
            self.chunk,
            pool=self.cond,
            words=self.pools["words"],
            pieces=self.pools["pieces"],
        )

    @property
    def arms(self) -> list[Arm]:
        """All arms, the prompts as they are first."""
        return [before_arm(), *self.repairs, *self.baselines]

    def numbers(self, part: int) -> list[int]:
        """The prompts of a chunk."""
        start = part * self.chunk
        return list(range(start, min(start + self.chunk, len(self.rows))))

    @property
    def parts(self) -> int:
        """How many chunks there are."""
        return -(-len(self.rows) // self.chunk)


def caption_of(row: Row) -> str | None:
    """Returns what was asked in words, or None for labels."""
    return str(row["caption"]) if row.get("caption") else None


def run_part(job: Job, part: int) -> Part:
    """Makes, repairs and measures one chunk of prompts; shapes are those of a full chunk."""
    numbers = job.numbers(part)
    padded = np.asarray(numbers + [numbers[-1]] * (job.chunk - len(numbers)))
    conds = _conditions(job, padded)
    records: list[Row] = []
    shown: dict[int, dict[str, np.ndarray]] = {}
    references: list[np.ndarray | None] = []
    rows: list[dict[str, np.ndarray] | None] = []
    captions = [caption_of(job.rows[i]) for i in numbers]
    for place, arm in enumerate(job.arms):
        found, pictures = make_pictures(
            job.model.bundle, conds.by_arm[arm.key], job.sampling, job.chunk
        )
        if not references:
            shape = pictures.shape[2:]
            references = [load_references(job.references[i], shape) for i in numbers]
            measures = job.measures.likeness
            rows = [None if r is None else rows_of(measures, r) for r in references]
        marks = measured(job.measures, pictures[: len(numbers)], rows, captions)
        for at, number in enumerate(numbers):
            row = _record(job, arm, number, found.per_step[at])
            records.append({**row, **marks[at], **conds.extra[arm.key][at]})
            if number < job.walls and place in job.shown[0]:
                kept = small(pictures[at][: job.shown[1]])
                shown.setdefault(number, {})[f"picture-{number}-{arm.key}"] = kept
            _write_pictures(job, arm, number, pictures[at])
    arrays = {name: a for of_prompt in shown.values() for name, a in of_prompt.items()}
    for at, number in enumerate(numbers):
        if number < job.walls and references[at] is not None:
            arrays[f"reference-{number}"] = small(np.asarray(references[at])[:1])
    after = [np.asarray(embeddings_of(conds.by_arm[arm.key].cond)) for arm in job.repairs]
    arrays["after"] = np.stack(after)[:, : len(numbers)]
    order = {number: place for place, number in enumerate(numbers)}
    return Part(sorted(records, key=lambda r: order[r["number"]]), arrays)


class _Conditions(NamedTuple):
    by_arm: dict[str, Problem]
    extra: dict[str, list[Row]]


def _conditions(job: Job, numbers: np.ndarray) -> _Conditions:
    """Every arm's sampling problem for some prompts, and what is known about how it came about."""
    asked = job.problem.take(numbers)
    asked = asked._replace(cond=over_devices(asked.cond, job.mesh))
    conds: dict[str, Cond] = {}
    by_arm: dict[str, Problem] = {job.arms[0].key: asked}
    extra: dict[str, list[Row]] = {job.arms[0].key: [{} for _ in numbers]}
    if job.setting is not None and job.setting.optimizes:
        found = _repaired(job, job.setting, numbers, asked.cond)
        extra[job.arms[0].key] = [_statistic(v, job) for v in found.before]
        for k, target in enumerate(job.targets):
            conds[target.arm.key] = found.conds[k]
            extra[target.arm.key] = _of_target(job, found, k)
    elif job.setting is not None:
        arm = job.repairs[0]
        by_arm[arm.key] = _applied(job, job.options.chain(job.setting.method), numbers)
        extra[arm.key] = [{} for _ in numbers]
    for chain, arm in zip(job.chains, chain_arms(job.chains), strict=True):
        by_arm[arm.key] = _applied(job, chain, numbers)
        extra[arm.key] = _rewritten(job, by_arm[arm.key], numbers)
    for place, arm in enumerate(job.baselines):
        conds[arm.key], extra[arm.key] = _baseline(job, place, arm, numbers)
    by_arm |= {name: asked._replace(cond=cond) for name, cond in conds.items()}
    return _Conditions(
        {k: p._replace(cond=over_devices(p.cond, job.mesh)) for k, p in by_arm.items()}, extra
    )


def _applied(job: Job, chain: Chain, numbers: np.ndarray) -> Problem:
    """Mitigations of some prompts; those without the network see all, so chunks change no draw."""
    key: Array = jax.random.fold_in(jax.random.key(job.options.seed), 1)
    if not chain.evaluates:
        if chain.text not in job.whole:
            job.whole[chain.text] = chain(job.problem, job.setup, key)
        return job.whole[chain.text].take(numbers)
    return chain(job.problem.take(numbers), job.setup, jax.random.fold_in(key, int(numbers[0])))


def _rewritten(job: Job, problem: Problem, numbers: np.ndarray) -> list[Row]:
    """The captions that a mitigation changed."""
    before = [caption_of(job.rows[i]) for i in numbers]
    after = [caption_of(dict(row)) for row in problem.rows]
    return [
        {"caption_used": now} if now != was else {} for was, now in zip(before, after, strict=True)
    ]


def _statistic(rms: float, job: Job) -> Row:
    """What is minimised, raw and RMS."""
    dim = int(np.prod(job.model.bundle.sample_shape))
    return {"statistic": float(rms) * math.sqrt(dim), "statistic_rms": float(rms)}


def _of_target(job: Job, found: TargetedRepair, k: int) -> list[Row]:
    target = job.targets[k]
    raw = None if target.unit == "rms" else target.given
    return [
        {
            "target": raw,
            "target_rms": target.rms,
            **_statistic(found.after[k, i], job),
            "iterations": int(found.iterations[k, i]),
            "reached": bool(found.reached[k, i]) if target.rms > 0 else None,
        }
        for i in range(found.after.shape[1])
    ]


def _repaired(job: Job, setting: Setting, numbers: np.ndarray, own: Cond) -> TargetedRepair:
    bundle = job.model.bundle
    rows = [job.rows[i] for i in numbers]
    return repair_targets(
        with_remat(bundle) if job.frugal else bundle,
        job.noise,
        own,
        job.sampling,
        targets_rms=[target.rms for target in job.targets],
        steps=setting.steps,
        num_iters=setting.num_iters,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        radius=setting.radius,
        trainable=trainable_tokens(bundle, rows, setting.protect),
        group=1 if job.frugal else None,
    )


def _baseline(job: Job, place: int, arm: Arm, numbers: np.ndarray) -> tuple[Cond, list[Row]]:
    """A baseline's conditions of some prompts, and the captions it used."""
    name = arm.key.rpartition("-")[0]
    if name == EMBEDDING_NOISE:
        key = jax.random.fold_in(jax.random.key(job.options.seed), 1)
        noisy = add_embedding_noise(key, job.cond, arm.strength)
        return take_rows(noisy, numbers), [{} for _ in numbers]
    count = int(arm.strength)
    texts = []
    for number in numbers:
        rng = np.random.default_rng([job.options.seed, 91, place, int(number)])
        texts.append(perturbed(name, str(job.rows[number]["caption"]), rng, count, job.pools))
    rows = [{**job.rows[i], "caption": text} for i, text in zip(numbers, texts, strict=True)]
    return job.model.bundle.encode(rows), [{"caption_used": text} for text in texts]


def perturbed(
    name: str,
    caption: str,
    rng: np.random.Generator,
    count: int,
    pools: Mapping[str, Sequence[str]],
) -> str:
    """Returns a caption perturbed by one of the text baselines."""
    if name == "random_number":
        return add_random_numbers(caption, rng, count)
    if name == "word_repetition":
        return repeat_words(caption, rng, count)
    if name == "random_token":
        return add_random_tokens(caption, rng, count, pools["pieces"])
    return add_random_words(caption, rng, count, pools["words"])


def _record(job: Job, arm: Arm, number: int, per_step: Float[np.ndarray, "g s"]) -> Row:
    return {
        "number": number,
        "id": job.rows[number]["id"],
        "arm": arm.key,
        "title": arm.title,
        "magnitude": float(per_step.mean()),
        "first_step": float(per_step[:, 0].mean()),
    }


def _write_pictures(job: Job, arm: Arm, number: int, pictures: np.ndarray) -> None:
    if job.folder is None:
        return
    for name, picture in zip(picture_names(job, arm, number), pictures, strict=True):
        write_bytes(job.folder / name, png_bytes(picture))


def picture_names(job: Job, arm: Arm, number: int) -> list[str]:
    """Returns the files of a prompt's pictures under one arm."""
    plain = safe_names([str(job.rows[number]["id"])])[0]
    return [f"{number:04d}-{plain}-{arm.key}-{g}.png" for g in range(len(job.noise))]

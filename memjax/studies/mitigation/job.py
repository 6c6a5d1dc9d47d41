"""A mitigation of prompts as a study: its arms, and what is kept of each prompt's images."""

import functools
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
from memjax.core.types import Array, Detector
from memjax.detectors import NoiseMagnitude
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
from memjax.runs.options import MAGNITUDE, AuditOptions
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
from memjax.studies.mitigation.records import NAMED, Arm, Measures, measured
from memjax.studies.mitigation.targets import TargetedRepair, repair_targets
from memjax.studies.problems import setup_of, trainable_tokens
from memjax.studies.store import Store
from memjax.studies.study import ArmProblem, Chunk, Part, Progress, Record, Study, once_made
from memjax.training.logging import png_bytes

Row = dict[str, Any]
_DETECTORS: Mapping[str, Detector] = {MAGNITUDE: NoiseMagnitude()}


class Job(NamedTuple):
    """What is tried on which prompts.

    Attributes:
        model: The model.
        rows: All prompts.
        problem: Their sampling problem as they were asked; noise is shared by all prompts.
        sampling: How images are made.
        setting: How prompts are repaired; None where only ``chains`` are tried.
        chains: Mitigations by name, each an arm of its own.
        options: The run's, for the baselines.
        targets: Where prompts are left; one stands for methods without targets.
        baselines: Arms of the baselines.
        references: Paths of every prompt's training images.
        measures: What images are measured with.
        pools: What the text baselines draw from: ``words`` and ``pieces``.
        chunk: Prompts at a time.
        frugal: Optimize one image at a time and recompute blocks, where memory is short.
        shown: Columns and generations of the wall, see :func:`shown_columns`.
        walls: How many prompts a wall shows.
        folder: Where images go, or None to keep none.
        mesh: Devices over which the prompts of a chunk are spread, or None for one.
    """

    model: Model
    rows: Sequence[Row]
    problem: Problem
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
    mesh: Mesh | None = None

    @property
    def generations(self) -> int:
        """Images a prompt."""
        return len(self.problem.x_T)

    @property
    def method_arms(self) -> list[Arm]:
        """The arms of ``setting``."""
        if self.setting is None:
            return []
        if self.setting.optimizes:
            return [target.arm for target in self.targets]
        method = self.setting.method
        return [Arm(method, title_of(method), NAMED)]

    @property
    def repairs(self) -> list[Arm]:
        """The arms of the repairs."""
        return [*self.method_arms, *chain_arms(self.chains)]

    @property
    def arms(self) -> list[Arm]:
        """All arms, the prompts as they are first."""
        return [before_arm(), *self.repairs, *self.baselines]

    @property
    def setup(self) -> Setup:
        """What mitigations may use."""
        return setup_of(
            with_remat(self.model.bundle) if self.frugal else self.model.bundle,
            self.sampling,
            self.chunk,
            pool=self.problem.cond,
            words=self.pools["words"],
            pieces=self.pools["pieces"],
        )

    def study(self, store: Store | None = None, progress: Progress | None = None) -> Study:
        """Returns the model's side of the study."""
        return Study(
            self.model.bundle,
            _DETECTORS,
            self.sampling,
            None,
            self.chunk,
            store,
            progress,
            self.mesh,
        )


def caption_of(row: Row) -> str | None:
    """Returns what was asked in words, or None for labels."""
    return str(row["caption"]) if row.get("caption") else None


def arm_problems(job: Job) -> dict[str, ArmProblem]:
    """Returns each arm's problem for some prompts; all targets share one pass of the optimizer."""
    before, *_ = job.arms
    out: dict[str, ArmProblem] = {before.key: once_made(lambda: job.problem)}
    if job.setting is not None and job.setting.optimizes:
        out |= _target_problems(job, job.setting)
    elif job.setting is not None:
        out[job.method_arms[0].key] = _chain_problem(job, job.options.chain(job.setting.method))
    for chain, arm in zip(job.chains, chain_arms(job.chains), strict=True):
        out[arm.key] = _chain_problem(job, chain)
    for place, arm in enumerate(job.baselines):
        out[arm.key] = functools.partial(_baseline, job, place, arm)
    return out


def _target_problems(job: Job, setting: Setting) -> dict[str, ArmProblem]:
    """The arms of the optimizer, and that of the prompts as they were with what it minimizes."""

    @functools.lru_cache(maxsize=1)  # of the chunk at hand, for all of its arms
    def repaired(numbers: tuple[int, ...]) -> TargetedRepair:
        bundle = job.model.bundle
        return repair_targets(
            with_remat(bundle) if job.frugal else bundle,
            job.problem.x_T,
            over_devices(take_rows(job.problem.cond, np.asarray(numbers)), job.mesh),
            job.sampling,
            targets_rms=[target.rms for target in job.targets],
            steps=setting.steps,
            num_iters=setting.num_iters,
            learning_rate=setting.learning_rate,
            weight_decay=setting.weight_decay,
            radius=setting.radius,
            trainable=trainable_tokens(bundle, [job.rows[i] for i in numbers], setting.protect),
            group=1 if job.frugal else None,
        )

    def asked(numbers: np.ndarray) -> tuple[Problem, list[Record]]:
        found = repaired(tuple(map(int, numbers)))
        return job.problem.take(numbers), [_statistic(v, job) for v in found.before]

    def left_at(k: int, numbers: np.ndarray) -> tuple[Problem, list[Record]]:
        found = repaired(tuple(map(int, numbers)))
        return job.problem.take(numbers)._replace(cond=found.conds[k]), _of_target(job, found, k)

    targets = {t.arm.key: functools.partial(left_at, k) for k, t in enumerate(job.targets)}
    return {job.arms[0].key: asked, **targets}


def _statistic(rms: float, job: Job) -> Record:
    """What is minimized, raw and RMS."""
    dim = int(np.prod(job.model.bundle.sample_shape))
    return {"statistic": float(rms) * math.sqrt(dim), "statistic_rms": float(rms)}


def _of_target(job: Job, found: TargetedRepair, k: int) -> list[Record]:
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


def _chain_problem(job: Job, chain: Chain) -> ArmProblem:
    """Mitigations of some prompts; those without the network see all, so chunks change no draw."""
    key: Array = jax.random.fold_in(jax.random.key(job.options.seed), 1)
    whole = once_made(lambda: chain(job.problem, job.setup, key))

    def arm(numbers: np.ndarray) -> tuple[Problem, list[Record]]:
        if chain.evaluates:
            own = jax.random.fold_in(key, int(numbers[0]))
            done = chain(job.problem.take(numbers), job.setup, own)
        else:
            done, _ = whole(numbers)
        return done, _rewritten(job, done, numbers)

    return arm


def _rewritten(job: Job, problem: Problem, numbers: np.ndarray) -> list[Record]:
    """The captions that a mitigation changed."""
    before = [caption_of(job.rows[i]) for i in numbers]
    after = [caption_of(dict(row)) for row in problem.rows]
    return [
        {"caption_used": now} if now != was else {} for was, now in zip(before, after, strict=True)
    ]


def _baseline(
    job: Job, place: int, arm: Arm, numbers: np.ndarray
) -> tuple[Problem, Sequence[Record]]:
    """A baseline of some prompts, and the captions it used."""
    name, asked = arm.key.rpartition("-")[0], job.problem.take(numbers)
    if name == EMBEDDING_NOISE:
        key = jax.random.fold_in(jax.random.key(job.options.seed), 1)
        noisy = add_embedding_noise(key, job.problem.cond, arm.strength)
        return asked._replace(cond=take_rows(noisy, numbers)), [{} for _ in numbers]
    count = int(arm.strength)
    texts = []
    for number in numbers:
        rng = np.random.default_rng([job.options.seed, 91, place, int(number)])
        texts.append(perturbed(name, str(job.rows[number]["caption"]), rng, count, job.pools))
    rows = [{**job.rows[i], "caption": text} for i, text in zip(numbers, texts, strict=True)]
    cond = job.model.bundle.encode(rows)
    return asked._replace(cond=cond), [{"caption_used": text} for text in texts]


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


class Measured:
    """Measures a chunk's images against each prompt's own, and writes them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._place = {arm.key: place for place, arm in enumerate(job.arms)}
        self._repairs = {arm.key for arm in job.repairs}
        self._of_prompts = functools.lru_cache(maxsize=1)(self._read)

    def _read(
        self, numbers: tuple[int, ...], shape: tuple[int, ...]
    ) -> list[tuple[np.ndarray, dict[str, np.ndarray]] | None]:
        """The training images of some prompts, and what they are compared by."""
        found = [load_references(self._job.references[i], shape) for i in numbers]
        measures = self._job.measures.likeness
        return [None if r is None else (r, rows_of(measures, r)) for r in found]

    def __call__(self, arm: str, chunk: Chunk) -> Part:
        """Returns one record a prompt, its embeddings where repaired, and what a wall shows."""
        job, place = self._job, self._place[arm]
        own = self._of_prompts(tuple(map(int, chunk.numbers)), chunk.images.shape[2:])
        captions = [caption_of(job.rows[i]) for i in chunk.numbers]
        rows = [None if of is None else of[1] for of in own]
        marks = measured(job.measures, chunk.images, rows, captions)
        per_step = chunk.statistics[MAGNITUDE]
        records, arrays = [], {}
        for at, number in enumerate(map(int, chunk.numbers)):
            record = _record(job, job.arms[place], number, per_step[at])
            records.append({**record, **marks[at], **chunk.facts[at]})
            _write_images(job, job.arms[place], number, chunk.images[at])
            if number >= job.walls:
                continue
            if place in job.shown[0]:
                arrays[f"image-{number}"] = small(chunk.images[at][: job.shown[1]])
            training = own[at]
            if place == 0 and training is not None:
                arrays[f"reference-{number}"] = small(np.asarray(training[0])[:1])
        if arm in self._repairs:
            after = np.asarray(embeddings_of(chunk.problem.cond))
            arrays["after"] = after[: len(chunk.numbers)]
        return Part(arrays, records)


def _record(job: Job, arm: Arm, number: int, per_step: Float[np.ndarray, "g s"]) -> Record:
    return {
        "number": number,
        "id": job.rows[number]["id"],
        "arm": arm.key,
        "title": arm.title,
        "magnitude": float(per_step.mean()),
        "first_step": float(per_step[:, 0].mean()),
    }


def _write_images(job: Job, arm: Arm, number: int, images: np.ndarray) -> None:
    if job.folder is None:
        return
    for name, image in zip(image_names(job, arm, number), images, strict=True):
        write_bytes(job.folder / name, png_bytes(image))


def image_names(job: Job, arm: Arm, number: int) -> list[str]:
    """Returns the files of a prompt's images under one arm."""
    plain = safe_names([str(job.rows[number]["id"])])[0]
    return [f"{number:04d}-{plain}-{arm.key}-{g}.png" for g in range(job.generations)]

"""The audit: detect, explain, mitigate and validate on one trained model, in one go."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from memjax.core.condition import num_rows, take_rows
from memjax.core.types import Array, Bundle, Cond, PromptRow
from memjax.data.labels import FINDINGS, suggestion
from memjax.detectors import Detection, NoiseMagnitude, detect, null_or_refuse
from memjax.evaluate.audit_inputs import HELD_OUT, MEMORIZED, ONCE, Gallery, Prompts
from memjax.evaluate.finding_classifier import Judge
from memjax.evaluate.similarity import SimilarityResult, copy_report
from memjax.explain import explain_states
from memjax.mitigations import (
    add_embedding_noise,
    optimize_embedding,
    swap_tokens,
)
from memjax.sampling import (
    States,
    collect_states,
    first_step_states,
    make_stepper,
    timesteps,
)

Say = Callable[[str], None]
EMBEDDING, FIRST_STEP, NOISE, SWAP = (
    "embedding_optimization",
    "embedding_first_step",
    "embedding_noise",
    "random_condition_change",
)
ARMS = (EMBEDDING, FIRST_STEP, NOISE, SWAP)


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How pictures are made; the arguments of :func:`memjax.sampling.sample`."""

    stepper: str = "ddim"
    num_steps: int = 50
    guidance_scale: float = 4.0
    clip_x0: float | None = 1.0
    spacing: str = "leading"
    steps_offset: int = 0

    def static(self) -> dict[str, Any]:
        """Returns the keyword arguments of ``sample``."""
        return {
            "stepper": make_stepper(self.stepper),
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_scale,
            "clip_x0": self.clip_x0,
            "spacing": self.spacing,
            "steps_offset": self.steps_offset,
        }


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """What an audit measures.

    Attributes:
        generations: Pictures a prompt, from initial noise shared by all prompts.
        first_k: Steps of the ``first_k`` detector.
        default: The detector chosen before looking: ``first_step``, ``first_k`` or ``all_steps``.
        target_fpr: False alarms accepted when the threshold is fitted (on trained-once prompts).
        arms: Mitigations to try; the first is the chosen one.
        mitigate_steps: Step indices over which the chosen mitigation minimises the magnitude, and
            whose gradients explain the tokens.
        num_iters: Updates of the chosen mitigation.
        learning_rate: Its AdamW rate.
        target_rms: Stop a prompt at this RMS magnitude; 0 runs all updates. None stops it at
            ``target_ordinary`` times the mean of the prompts that are not memorised.
        target_ordinary: See there; 1 makes a memorised prompt as loud as an ordinary one.
        radius: Ball around the original embedding, or infinity.
        protect: Keep the tokens of these label names fixed in the chosen mitigation;
            ``("findings",)`` stands for all findings.
        first_step_iters: Updates of the paper's setting (first step only).
        first_step_learning_rate: Its rate.
        noise_scale: Relative embedding noise of that baseline.
        swap_tokens: Tokens replaced by that baseline.
        chunk: Prompts evaluated together.
        seed: Decides noise and draws.
    """

    generations: int = 4
    first_k: int = 25
    default: str = "first_k"
    target_fpr: float = 0.05
    arms: tuple[str, ...] = ARMS
    mitigate_steps: tuple[int, ...] = (5, 15, 25, 35)
    num_iters: int = 20
    learning_rate: float = 0.1
    target_rms: float | None = None
    target_ordinary: float = 1.0
    radius: float = float("inf")
    protect: tuple[str, ...] = ()
    first_step_iters: int = 10
    first_step_learning_rate: float = 0.05
    noise_scale: float = 0.5
    swap_tokens: int = 4
    chunk: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.default not in ("first_step", "first_k", "all_steps"):
            raise ValueError(
                f"default is {self.default!r}, expected first_step, first_k or all_steps."
            )
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms:
            raise ValueError(f"arms={self.arms}: expected at least one of {ARMS}.")


class ArmResult(NamedTuple):
    """One mitigation on the memorised prompts, from the same initial noise as before."""

    name: str
    detection: Detection
    similarity: SimilarityResult
    agreement: Float[np.ndarray, "k g"]
    seconds: float


class Audit(NamedTuple):
    """All that an audit measured.

    Attributes:
        detection: Of all prompts, to the end of the trajectory.
        similarity: Of every generated picture (``prompt · generation``) to the training pictures.
        background: Of held-out real pictures to the training pictures.
        agreement: Findings as asked for, per prompt and generation; NaN where not judged.
        memorized: Which prompts count as memorised in the figures.
        significance: Token significance ``[prompt, token]`` of ``explained``.
        explained: Prompts explained.
        arms: Mitigations on the prompts of ``mitigated``.
        mitigated: Prompts mitigated.
        label_source: Where ``memorized`` comes from.
    """

    detection: Detection
    similarity: SimilarityResult
    background: SimilarityResult
    agreement: Float[np.ndarray, "p g"]
    memorized: Bool[np.ndarray, " p"]
    significance: Float[np.ndarray, "e l"]
    explained: np.ndarray
    arms: list[ArmResult]
    mitigated: np.ndarray
    label_source: str


def _window(options: AuditOptions) -> str | int:
    windows: dict[str, str | int]
    windows = {"first_step": "first", "first_k": options.first_k, "all_steps": "all"}
    return windows[options.default]


def run_audit(
    bundle: Bundle,
    prompts: Prompts,
    gallery: Gallery,
    judge: Judge,
    sampling: SamplingOptions,
    options: AuditOptions,
    say: Say = lambda text: None,
) -> Audit:
    """Detects, validates, explains and mitigates.

    Args:
        bundle: The model.
        prompts: What to ask it.
        gallery: What its pictures are compared with.
        judge: Says which findings a picture shows.
        sampling: How pictures are made.
        options: What to measure.
        say: Told what is being done.

    Raises:
        ValueError: If the model has no null condition (the magnitude has no meaning then).
    """
    x_T = jax.random.normal(
        jax.random.key(options.seed), (options.generations, *bundle.sample_shape)
    )
    cond = bundle.encode(prompts.rows)
    measure = partial(
        detect,
        bundle.eps_fn,
        bundle.params,
        x_T,
        null_cond=bundle.null_cond,
        schedule=bundle.schedule,
        chunk=options.chunk,
        **sampling.static(),
    )
    say(f"detecting: {len(prompts.rows)} prompts, {options.generations} pictures each")
    detection = measure(cond=cond)
    compare = partial(_compare, bundle, gallery)
    background = copy_report(
        gallery.held_out,
        gallery.train,
        patients=gallery.patients,
        query_patients=gallery.held_patients,
        n=min(50, len(gallery.train)),
    )
    similarity = compare(detection, background)
    agreement = _agreement(bundle, judge, detection, prompts.asked)
    memorized, source = memorized_prompts(prompts, similarity, options.generations)
    chosen = np.flatnonzero(memorized)
    say(f"explaining: {len(chosen)} prompts")
    rows, own = [prompts.rows[i] for i in chosen], take_rows(cond, chosen)
    states = [_states(bundle, x_T, part, sampling, options) for part in _chunks(own, options.chunk)]
    significance = _explain(bundle, states, own, options)
    explained = chosen
    arms = []
    for name in options.arms if len(chosen) else ():
        say(f"mitigating: {name.replace('_', ' ')}, {len(chosen)} prompts")
        began = time.monotonic()
        mitigated = mitigate_prompts(
            name,
            bundle,
            x_T,
            rows,
            own,
            cond,
            sampling,
            options,
            target_rms=_target(name, detection, ~memorized, options),
            states=states,
        )
        seconds = time.monotonic() - began
        after = measure(cond=mitigated)
        arms.append(
            ArmResult(
                name,
                after,
                compare(after, background),
                _agreement(bundle, judge, after, prompts.asked[chosen]),
                seconds,
            )
        )
    return Audit(
        detection,
        similarity,
        background,
        agreement,
        memorized,
        significance,
        explained,
        arms,
        chosen,
        source,
    )


def memorized_prompts(
    prompts: Prompts, similarity: SimilarityResult, generations: int
) -> tuple[Bool[np.ndarray, " p"], str]:
    """Returns which prompts count as memorised, and where that comes from.

    Prompts whose picture is repeated in training, if there are any; else those of which at least
    half of the pictures are copies.
    """
    known = prompts.family == MEMORIZED
    if known.any():
        return known, "repeated in training"
    copies = similarity.is_copy_adaptive.reshape(-1, generations).mean(axis=1) >= 0.5
    return copies & np.isin(prompts.family, (ONCE, HELD_OUT)), "at least half of its pictures copy"


def _flat_images(bundle: Bundle, detection: Detection) -> Float[np.ndarray, "r h w c"]:
    images = np.asarray(bundle.decode(detection.images))
    return images.reshape(-1, *images.shape[2:])


def _compare(
    bundle: Bundle, gallery: Gallery, detection: Detection, background: SimilarityResult
) -> SimilarityResult:
    return copy_report(
        _flat_images(bundle, detection),
        gallery.train,
        patients=gallery.patients,
        background=background,
        n=min(50, len(gallery.train)),
    )


def _agreement(bundle: Bundle, judge: Judge, detection: Detection, asked) -> np.ndarray:
    prompts, generations = detection.per_step.shape[:2]
    images = _flat_images(bundle, detection)
    return judge.agreement(images, np.repeat(asked, generations, axis=0)).reshape(
        prompts, generations
    )


_collect = jax.jit(
    collect_states,
    static_argnames=(
        "eps_fn",
        "steps",
        "num_steps",
        "stepper",
        "spacing",
        "steps_offset",
        "clip_x0",
    ),
)
_first_step = jax.jit(first_step_states, static_argnames=("eps_fn",))
_significance = jax.jit(explain_states, static_argnames=("eps_fn",))
_optimize = jax.jit(optimize_embedding, static_argnames=("statistic", "eps_fn", "num_iters"))


def _chunks(rows: Cond, size: int) -> list[Cond]:
    """Splits rows into chunks of one size; the last row is repeated to fill the last chunk."""
    count = num_rows(rows)
    starts = range(0, count, min(size, count) or 1)
    return [take_rows(rows, np.arange(s, s + min(size, count)).clip(max=count - 1)) for s in starts]


def _states(
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    cond: Cond,
    sampling: SamplingOptions,
    options: AuditOptions,
) -> States:
    """Returns the states of some prompts at the steps that are explained and mitigated."""
    return _collect(
        bundle.eps_fn,
        bundle.params,
        x_T,
        cond,
        null_or_refuse(bundle.null_cond),
        bundle.schedule,
        steps=options.mitigate_steps,
        **sampling.static(),
    )


def _explain(
    bundle: Bundle, states: list[States], cond: Cond, options: AuditOptions
) -> Float[np.ndarray, "k l"]:
    weights = [
        np.asarray(_significance(bundle.eps_fn, bundle.params, part, rows)).mean(axis=1)
        for part, rows in zip(states, _chunks(cond, options.chunk), strict=True)
    ]
    return np.concatenate(weights)[: num_rows(cond)] if weights else np.zeros((0, 0))


def ordinary_level(per_step: Float[np.ndarray, "p g s"], steps: Sequence[int], dim: int) -> float:
    """Returns the mean RMS magnitude of ordinary prompts at some steps."""
    return float(per_step[:, :, list(steps)].mean() / np.sqrt(dim))


def _target(
    name: str, detection: Detection, ordinary: Bool[np.ndarray, " p"], options: AuditOptions
) -> float:
    if options.target_rms is not None or not ordinary.any():
        return options.target_rms or 0.0
    steps = (0,) if name == FIRST_STEP else options.mitigate_steps
    level = ordinary_level(detection.per_step[ordinary], steps, detection.dim)
    return options.target_ordinary * level


def may_move(
    bundle: Bundle, rows: Sequence[PromptRow], protect: Sequence[str]
) -> Bool[np.ndarray, "k l"]:
    """Returns which tokens a mitigation may move: never BOS, nor a protected label's.

    Raises:
        ValueError: If ``protect`` names no label of the model.
    """
    names = [[n.split(":")[0] for n in bundle.describe(row)] for row in rows]
    known = {name.casefold() for row in names for name in row}
    asked = {name.casefold() for name in protect}
    for name in asked - known - {"findings"}:
        raise ValueError(
            f"protect names {name!r}, which no token of the prompts has"
            f"{suggestion(name, sorted(known))}: give label names such as View, or findings."
        )
    if "findings" in asked:
        asked |= {name.casefold() for name in FINDINGS}
    table = [[i > 0 and n.casefold() not in asked for i, n in enumerate(row)] for row in names]
    return np.asarray(table, bool)


def mitigate_prompts(
    name: str,
    bundle: Bundle,
    x_T: Float[Array, "g *d"],
    rows: Sequence[PromptRow],
    cond: Cond,
    pool: Cond,
    sampling: SamplingOptions,
    options: AuditOptions,
    *,
    target_rms: float = 0.0,
    states: list[States] | None = None,
) -> Cond:
    """Applies one mitigation to some prompts.

    Args:
        name: One of :data:`ARMS`.
        bundle: The model.
        x_T: Initial noise ``[generation, ...]`` shared by all prompts.
        rows: The prompts to mitigate.
        cond: Conditions of the prompts to mitigate.
        pool: Conditions that the random condition change draws from.
        sampling: How pictures are made.
        options: Steps, rates and radii.
        target_rms: Where a prompt stops; 0 runs all updates.
        states: The chunks' states at ``options.mitigate_steps``, where they are known already.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), 1)
    if name == NOISE:
        return add_embedding_noise(key, cond, options.noise_scale)
    if name == SWAP:
        return swap_tokens(key, cond, pool, options.swap_tokens)
    first, parts = name == FIRST_STEP, _chunks(cond, options.chunk)
    movable = _chunks(may_move(bundle, rows, () if first else options.protect), options.chunk)
    if first:
        states = [_first_states(bundle, x_T, part, sampling) for part in parts]
    elif states is None:
        states = [_states(bundle, x_T, part, sampling, options) for part in parts]
    done = [
        _optimize(
            NoiseMagnitude(rms=True),
            bundle.eps_fn,
            bundle.params,
            at,
            part,
            num_iters=options.first_step_iters if first else options.num_iters,
            learning_rate=options.first_step_learning_rate if first else options.learning_rate,
            target=target_rms,
            radius=options.radius,
            trainable=moving,
        ).cond
        for at, part, moving in zip(states, parts, movable, strict=True)
    ]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *done)
    return jax.block_until_ready(take_rows(joined, np.arange(len(rows))))


def _first_states(
    bundle: Bundle, x_T: Float[Array, "g *d"], cond: Cond, sampling: SamplingOptions
) -> States:
    """Returns the paper's setting: the initial noise at the first timestep."""
    grid = timesteps(
        bundle.schedule.num_timesteps, sampling.num_steps, sampling.spacing, sampling.steps_offset
    )
    null = null_or_refuse(bundle.null_cond)
    return _first_step(bundle.eps_fn, bundle.params, x_T, jnp.asarray(grid[0]), cond, null)

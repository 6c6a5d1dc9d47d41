"""The training loop: steps, metrics, samples, checkpoints, and an exact way back in."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memjax.core.types import Params
from memjax.runtime.clock import CHECKPOINT, DATA, SAMPLES
from memjax.runtime.hosts import Heartbeat, agreed, barrier, is_first
from memjax.runtime.interruption import RESTART_EXIT_CODE, Interrupted, StopSignals
from memjax.runtime.json import dumps, loads
from memjax.runtime.locks import hold
from memjax.training.checkpoint import (
    FOLDER,
    CheckpointWriter,
    Skipped,
    checkpoint_steps,
    require_space,
    restore_latest,
    set_aside,
)
from memjax.training.logging import METRICS_FILE, Outputs, Progress, read_metrics
from memjax.training.meter import Meter, Profiler, TrainingDiverged, write_nan_report
from memjax.training.seal import as_of_now, can_be_mended, config_changes
from memjax.training.state import TrainState
from memjax.training.step import StepFn

__all__ = ["RESTART_EXIT_CODE", "Interrupted", "TrainResult", "TrainingDiverged", "train"]

logger = logging.getLogger(__name__)

SampleFn = Callable[[Params, int], Any]


class TrainResult(NamedTuple):
    """What a finished run hands back.

    Attributes:
        state: The final state.
        seconds: Wall time of this call.
        images_per_second: Speed of the steps of this call; compiling, sampling and saving excluded.
        history: All rows of ``metrics.jsonl``, earlier calls included.
        start_step: Step this call started from.
        skipped_checkpoints: ``(step, reason)`` of checkpoints passed over on resuming.
        compile_seconds: Wait for the first step of this call: compilation and one step.
    """

    state: TrainState
    seconds: float
    images_per_second: float
    history: list[dict[str, Any]]
    start_step: int
    skipped_checkpoints: Skipped
    compile_seconds: float = 0.0


class Speed(NamedTuple):
    """What a step computes, and what the devices can do.

    Attributes:
        flops_per_image: Operations of a training step for one image.
        peak_flops: Operations a second that all devices together can do; 0: not known.
    """

    flops_per_image: float
    peak_flops: float = 0.0


def train(
    state: TrainState,
    step_fn: StepFn,
    batches_from: Callable[[int], Iterator[Any]],
    *,
    workdir: str | os.PathLike[str],
    total_steps: int,
    checkpoint_every: int = 1000,
    log_every: int = 50,
    sample_every: int | None = None,
    sample_fn: SampleFn | None = None,
    config: Mapping[str, Any] | None = None,
    max_skips: int = 10,
    resume: bool = True,
    allow_config_change: bool = False,
    max_to_keep: int = 3,
    tensorboard: bool = True,
    progress: Progress | bool = True,
    speed: Speed | None = None,
    profile_steps: int = 0,
) -> TrainResult:
    """Trains to ``total_steps``, continuing from the workdir's newest good checkpoint if any.

    The result is bit-identical however often the run was killed and started again, on the same
    devices. Files in the workdir: ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``,
    ``samples/step_*.png``, ``heartbeat/process-*.json``, and ``nan_report.json`` when it gives up.
    A row of the metrics also says where the time since the last one went: ``compute_seconds``,
    ``data_seconds`` (waiting for batches), ``checkpoint_seconds``, ``samples_seconds``.

    Args:
        state: The state at step 0; used as it is when there is nothing to resume.
        step_fn: From :func:`memjax.training.step.make_train_step`.
        batches_from: Step → endless iterator whose first batch is that step's.
        workdir: The run's folder.
        total_steps: Step to reach.
        checkpoint_every: Steps between checkpoints; one is also saved at the end.
        log_every: Steps per metrics row; a row holds means over its steps.
        sample_every: Steps between sample grids, or None.
        sample_fn: ``(ema_params, step) -> images [n, h, w, c]`` in [-1, 1].
        config: JSON-able; saved with the checkpoints and compared on resuming.
        max_skips: Consecutive non-finite steps at which to give up.
        resume: False refuses a workdir that has checkpoints.
        allow_config_change: Resume although ``config`` differs.
        max_to_keep: Checkpoints to keep.
        tensorboard: Whether to write TensorBoard events.
        progress: True, False, or a :class:`Progress` of the caller's.
        speed: What a step computes and the devices can do, to report ``mfu``; None: not reported.
        profile_steps: Steps to record in ``profile/`` for TensorBoard or XProf, from the fourth
            step of this call on; 0: none.

    Returns:
        See :class:`TrainResult`.

    Raises:
        Interrupted: After SIGTERM or SIGINT, once the state is saved.
        TrainingDiverged: After ``max_skips`` consecutive non-finite steps; nothing is saved.
        ValueError: If an argument, the workdir or the saved configuration does not fit.
    """
    began = time.monotonic()
    _check_positive(
        total_steps=total_steps,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        max_skips=max_skips,
        sample_every=1 if sample_every is None else sample_every,
    )
    workdir = Path(workdir)
    plain_config: dict[str, Any] = loads(dumps(dict(config or {})))
    first_process = is_first()
    with contextlib.ExitStack() as stack:
        if first_process:
            stack.enter_context(hold(workdir, flag="workdir"))
        state, start, skipped = _resume(
            workdir / FOLDER, state, plain_config, resume, allow_config_change
        )
        if start < total_steps:
            require_space(workdir, state, checkpoints=2)
        if start > total_steps:
            raise ValueError(
                f"{workdir} is at step {start}, beyond total_steps={total_steps}: "
                "raise total_steps or choose another workdir."
            )
        outputs = stack.enter_context(
            Outputs(workdir, start, total_steps, first_process, tensorboard, progress)
        )
        writer = CheckpointWriter(workdir / FOLDER, plain_config, max_to_keep)
        stack.callback(writer.close)
        stop = stack.enter_context(StopSignals(writer.reached_preemption))
        meter = Meter(max_skips) if speed is None else Meter(max_skips, *speed)
        heart = Heartbeat(workdir)
        profiler = stack.enter_context(Profiler(workdir, start + 4, profile_steps))
        batches = iter(batches_from(start)) if start < total_steps else iter(())
        for step in range(start + 1, total_steps + 1):
            with meter.clock.part(DATA):
                batch = _next_batch(batches, step)
            profiler.before(step)
            called = time.monotonic()
            state, metrics = step_fn(state, batch)
            seconds = time.monotonic() - called
            meter.add(metrics, batch.row.shape[0], step, batch.row, seconds)
            profiler.after(step, metrics)
            heart.beat(step)
            stopping = stop.requested(step)
            saving = step % checkpoint_every == 0 or step == total_steps or stopping
            if step % log_every == 0 or saving:
                meter.close_window(step)
            sampling = sample_fn is not None and sample_every and step % sample_every == 0
            try:
                outputs.log(meter.fetch(step, wait=bool(saving or sampling)))
            except TrainingDiverged as error:
                report = write_nan_report(workdir, meter.bad, state, batch)
                raise TrainingDiverged(f"{error} See {report}.") from None
            if saving:
                with meter.throughput.paused(), meter.clock.part(CHECKPOINT):
                    writer.save(step, state)
            if sample_fn is not None and sampling:
                with meter.throughput.paused(), meter.clock.part(SAMPLES):
                    outputs.sample(step, sample_fn(state.ema_params, step))
            if stopping and step < total_steps:
                raise Interrupted(step)
        heart.beat(total_steps, force=True)
        meter.throughput.pause()
    return TrainResult(
        state=state,
        seconds=time.monotonic() - began,
        images_per_second=meter.throughput.images_per_second,
        history=read_metrics(workdir / METRICS_FILE),
        start_step=start,
        skipped_checkpoints=skipped,
        compile_seconds=meter.first_step_seconds,
    )


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")


def _next_batch(batches: Iterator[Any], step: int) -> Any:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"the batches ended before step {step}: give an endless iterator.")
    return batch


def _resume(
    directory: Path, state: TrainState, config: dict[str, Any], resume: bool, allow: bool
) -> tuple[TrainState, int, Skipped]:
    if not resume and (steps := checkpoint_steps(directory)):
        raise ValueError(
            f"{directory} already holds checkpoints up to step {steps[0]}: "
            "resume, or choose another workdir."
        )
    restored = restore_latest(directory, state)
    for step, reason in restored.skipped:
        logger.warning("checkpoint of step %d skipped: %s.", step, reason)
    if restored.state is None or restored.step is None:
        _refuse_whole(directory, restored.skipped)
        _set_aside(directory, restored.skipped)
        return state, 0, restored.skipped
    before = as_of_now(_longer(restored.config, config), config)
    changes = config_changes(before, as_of_now(config, config))
    if changes and not allow:
        raise ValueError(
            f"the configuration differs from the checkpoint's ({'; '.join(changes[:5])}): "
            "restore it, give --allow_config_change, or choose another workdir."
        )
    logger.info("resuming from step %d.", restored.step)
    _set_aside(directory, restored.skipped)
    return restored.state, restored.step, restored.skipped


def _refuse_whole(directory: Path, skipped: Skipped) -> None:
    """Refuses to start again from step 0 beside checkpoints that a hand can put right."""
    whole = [f"step {step}: {reason}" for step, reason in skipped if can_be_mended(reason)]
    if agreed(len(whole)):
        raise ValueError(
            f"{directory} holds no checkpoint to go on from ({'; '.join(whole[:3])}): put that "
            "right, or move the folder away to start again from step 0."
        )


def _longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the saved configuration; with the new number of steps where that is larger.

    More steps change nothing of what was done. A rate that falls until the last step falls slower
    from here on, so the end is not that of a run which had been given the steps at once.
    """
    before, now = old.get("train", {}), new.get("train", {})
    if not before.get("steps", math.inf) < now.get("steps", 0):
        return old
    if before.get("lr_schedule") != "constant":
        logger.info(
            "train.steps: %d -> %d: the learning rate's %s schedule now ends at the new last "
            "step; the weights will not be those of one run of %d steps.",
            *(before["steps"], now["steps"], before.get("lr_schedule"), now["steps"]),
        )
    return {**old, "train": {**before, "steps": now["steps"]}}


def _set_aside(directory: Path, skipped: Skipped) -> None:
    if is_first():
        set_aside(directory, skipped)
    barrier("damaged checkpoints set aside")

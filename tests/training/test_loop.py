import io
import logging
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import toy_run
from PIL import Image

from memjax.runtime.interruption import StopSignals
from memjax.training.checkpoint import FOLDER, checkpoint_steps, newest_good_step
from memjax.training.logging import Progress
from memjax.training.loop import Interrupted, TrainingDiverged, config_changes, train
from memjax.training.meter import Meter
from memjax.training.state import state_hash
from memjax.training.step import TrainOptions
from tests.commands import held_elsewhere


def go(workdir, total_steps=12, batches_from=toy_run.batches_from, **settings):
    state, step_fn = toy_run.new_run(settings.pop("options", toy_run.FILTERED))
    settings = {
        "checkpoint_every": 5,
        "log_every": 4,
        "tensorboard": False,
        "progress": False,
    } | settings
    return train(state, step_fn, batches_from, workdir=workdir, total_steps=total_steps, **settings)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    return go(tmp_path_factory.mktemp("straight"))


def poisoned_from(first, last):
    def batches_from(step):
        for index, batch in enumerate(toy_run.batches_from(step), start=step):
            if first <= index < last:
                batch = batch._replace(image=np.full_like(batch.image, np.nan))
            yield batch

    return batches_from


def test_the_loop_is_the_steps(straight):
    state, step = toy_run.new_run()
    losses = []
    for index in range(12):
        state, metrics = step(state, toy_run.batch_at(index))
        losses.append(float(metrics["loss"]))
    assert state_hash(straight.state) == state_hash(state)
    rows = straight.history
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]
    expected = [np.mean(losses[a:b]) for a, b in ((0, 4), (4, 5), (5, 8), (8, 10), (10, 12))]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=1e-6)
    assert straight.images_per_second > 0
    assert straight.seconds > 0


@pytest.mark.parametrize("stop", [1, 5, 7, 11])
def test_resuming_is_bit_exact(straight, tmp_path, stop):
    def failing(step):
        for index, batch in enumerate(toy_run.batches_from(step), start=step):
            if index == stop:
                raise RuntimeError("the power went")
            yield batch

    with pytest.raises(RuntimeError, match="the power went"):
        go(tmp_path, batches_from=failing)
    result = go(tmp_path)
    assert result.start_step == stop // 5 * 5
    assert state_hash(result.state) == state_hash(straight.state)
    assert [row["step"] for row in result.history][-1] == 12
    assert len({row["step"] for row in result.history}) == len(result.history)


def test_a_finished_run_comes_back_at_once(straight, tmp_path):
    go(tmp_path)
    again = go(tmp_path, batches_from=lambda step: pytest.fail("no batch is needed"))
    assert again.start_step == 12
    assert state_hash(again.state) == state_hash(straight.state)
    with pytest.raises(ValueError, match=r"at step 12, beyond total_steps=11"):
        go(tmp_path, total_steps=11)


def test_a_longer_run_continues(straight, tmp_path):
    go(tmp_path, total_steps=6)
    assert state_hash(go(tmp_path).state) == state_hash(straight.state)


def test_a_damaged_checkpoint_is_said_set_aside_and_replaced(straight, tmp_path, caplog):
    go(tmp_path, total_steps=10)
    file = max((tmp_path / FOLDER / "10").rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)
    with caplog.at_level(logging.INFO, "memjax.training"):
        result = go(tmp_path)
    assert result.start_step == 5
    assert [step for step, _ in result.skipped_checkpoints] == [10]
    assert "checkpoint of step 10 skipped" in caplog.text
    assert "resuming from step 5" in caplog.text
    assert state_hash(result.state) == state_hash(straight.state)
    assert newest_good_step(tmp_path / FOLDER) == (12, [])
    assert 10 in checkpoint_steps(tmp_path / FOLDER)


def test_when_no_checkpoint_is_good_the_run_starts_again(straight, tmp_path):
    go(tmp_path, total_steps=5)
    shutil.rmtree(tmp_path / FOLDER / "5" / "state")
    result = go(tmp_path)
    assert result.start_step == 0
    assert len(result.skipped_checkpoints) == 1
    assert state_hash(result.state) == state_hash(straight.state)


def test_a_few_bad_batches_are_skipped_and_counted(tmp_path):
    result = go(tmp_path, batches_from=poisoned_from(6, 8), max_skips=3, options=TrainOptions())
    assert int(result.state.total_skipped) == 2
    assert int(result.state.updates) == 10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert all(row["loss"] is not None for row in result.history)


def test_persistent_nan_aborts_and_spares_the_last_checkpoint(straight, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"steps in a row up to step \d+ had a non-finite"):
        go(tmp_path, total_steps=50, batches_from=poisoned_from(10, 50), max_skips=4)
    assert newest_good_step(tmp_path / FOLDER) == (10, [])
    healed = go(tmp_path)
    assert state_hash(healed.state) == state_hash(straight.state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(straight, tmp_path, number):
    def signalled(step):
        for index, batch in enumerate(toy_run.batches_from(step), start=step):
            if index == 7:
                os.kill(os.getpid(), number)
            yield batch

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped at step 8 and saved") as stopped:
        go(tmp_path, batches_from=signalled)
    assert (stopped.value.step, stopped.value.exit_code) == (8, 75)
    assert signal.getsignal(number) is before
    assert newest_good_step(tmp_path / FOLDER) == (8, [])
    result = go(tmp_path)
    assert result.start_step == 8
    assert state_hash(result.state) == state_hash(straight.state)


@pytest.fixture
def _usual_interrupt():
    """A process started in the background ignores SIGINT; here it is what a keyboard sends."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_usual_interrupt")
def test_the_second_signal_acts_as_usual():
    with StopSignals() as stop:
        assert not stop.requested(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_samples_come_from_the_average_and_change_nothing(straight, tmp_path):
    seen = {}

    def sample_fn(ema_params, step):
        seen[step] = state_hash(ema_params)
        return np.zeros((4, 8, 8, 1)) + 0 * ema_params["out"][0, 0]

    result = go(tmp_path, sample_every=6, sample_fn=sample_fn)
    assert state_hash(result.state) == state_hash(straight.state)
    assert sorted(seen) == [6, 12]
    assert seen[12] == state_hash(result.state.ema_params)
    with Image.open(tmp_path / "samples" / "step_00000012.png") as image:
        assert image.size == (18, 18)


def test_a_changed_configuration_is_named(tmp_path):
    config = {"seed": 1, "model": {"width": 8, "heads": (1, 2)}}
    go(tmp_path, total_steps=5, config=config)
    go(tmp_path, total_steps=6, config=config)
    changed = {"seed": 1, "model": {"width": 16, "heads": (1, 2)}}
    with pytest.raises(ValueError, match=r"differs .*model\.width: 8 -> 16\)"):
        go(tmp_path, config=changed)
    assert go(tmp_path, config=changed, allow_config_change=True).start_step == 6
    with pytest.raises(ValueError, match="already holds checkpoints up to step 12"):
        go(tmp_path, config=config, resume=False)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_more_steps_alone_go_on(tmp_path, caplog, schedule):
    first = {"train": {"steps": 6, "lr_schedule": schedule}}
    longer = {"train": {"steps": 8, "lr_schedule": schedule}}
    go(tmp_path, config=first, total_steps=6)
    with caplog.at_level("INFO"):
        assert go(tmp_path, config=longer, total_steps=8).start_step == 6
    assert ("schedule now ends" in caplog.text) == (schedule == "cosine")
    other = {"train": {"steps": 10, "lr_schedule": schedule, "batch_size": 3}}
    with pytest.raises(ValueError, match=r"train.batch_size: .*--allow_config_change"):
        go(tmp_path, config=other, total_steps=10)
    with pytest.raises(ValueError, match=r"train.steps: 8 -> 7\)"):
        go(tmp_path, config=first | {"train": {**first["train"], "steps": 7}}, total_steps=8)


def test_config_changes():
    old, new = {"a": 1, "b": {"c": 2, "d": {}}}, {"a": 1, "b": {"c": 3}, "e": None}
    assert config_changes(old, new) == ["b.c: 2 -> 3", "b.d: {} -> 'absent'", "e: 'absent' -> None"]
    assert config_changes(old, old) == []


def test_one_run_a_workdir(tmp_path):
    with (
        held_elsewhere(tmp_path / ".lock"),
        pytest.raises(ValueError, match="in use by another run"),
    ):
        go(tmp_path)
    go(tmp_path, total_steps=1)


def test_batches_that_end_and_bad_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ended before step 3"):
        go(tmp_path, batches_from=lambda step: iter([toy_run.batch_at(0), toy_run.batch_at(1)]))
    for name in ("total_steps", "checkpoint_every", "log_every", "max_skips", "sample_every"):
        with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
            go(tmp_path, **{name: 0})


def test_tensorboard_and_progress(tmp_path):
    stream = io.StringIO()
    progress = Progress(12, stream=stream, interval=0.0)
    go(tmp_path, tensorboard=True, progress=progress)
    assert "step 12/12" in stream.getvalue()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_window_is_fetched_after_the_next_step_is_dispatched():
    meter = Meter(max_skips=3)
    for step, loss in ((1, 1.0), (2, 3.0)):
        meter.add({"loss": loss, "skipped": 0}, images=4)
        assert meter.fetch(step) == []
    meter.close_window(2)
    assert meter.fetch(2) == []
    meter.add({"loss": 100.0, "skipped": 0}, images=4)
    ((step, means),) = meter.fetch(3)
    assert (step, means["loss"]) == (2, 2.0)
    assert meter.fetch(4) == []


def test_means_leave_out_what_is_not_finite():
    meter = Meter(max_skips=3)
    for loss, skipped in ((1.0, 0), (np.nan, 1), (3.0, 0)):
        meter.add({"loss": loss, "skipped": skipped}, images=4)
    meter.close_window(3)
    ((_, means),) = meter.fetch(3, wait=True)
    assert (means["loss"], means["skipped"]) == (2.0, 0.0)


def test_giving_up_looks_at_every_step_of_the_window():
    meter = Meter(max_skips=2)
    for skipped in (1, 2, 0):
        meter.add({"loss": 1.0, "skipped": skipped}, images=4)
    meter.close_window(3)
    with pytest.raises(TrainingDiverged, match="2 steps in a row"):
        meter.fetch(3, wait=True)

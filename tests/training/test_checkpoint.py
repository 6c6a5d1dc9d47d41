import io
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run

from memjax.training import checkpoint
from memjax.training.checkpoint import (
    FOLDER,
    CheckpointWriter,
    checkpoint_steps,
    load_params,
    newest_good_step,
    restore_latest,
    set_aside,
)
from memjax.training.loop import train
from memjax.training.seal import MANIFEST, is_sealed
from memjax.training.state import state_hash


def state_at(step):
    state, _ = toy_run.new_run()
    return state._replace(
        step=jnp.int32(step), params=jax.tree.map(lambda p: p + step, state.params)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of steps 3, 6 and 9."""
    run = tmp_path_factory.mktemp("run")
    writer = CheckpointWriter(run / FOLDER, {"seed": 4, "model": {"width": 8}}, max_to_keep=3)
    for step in (1, 3, 6, 9):
        writer.save(step, state_at(step))
    writer.close()
    return run


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def biggest_file(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    return max(files, key=lambda p: p.stat().st_size)


def flip(folder):
    path = biggest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = biggest_file(folder)
    path.write_bytes(path.read_bytes()[:-7])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "does not match its checksum": flip,
    r"has \d+ bytes, expected \d+": truncate,
    "is missing": lambda folder: biggest_file(folder).unlink(),
    "the folder is empty": empty,
    "cut short": lambda folder: (folder / MANIFEST).unlink(),
    "manifest cannot be read": lambda folder: (folder / MANIFEST).write_text("{"),
    "lists no file": lambda folder: (folder / MANIFEST).write_text('{"files": {}}'),
}


def test_round_trip_is_exact_and_keeps_the_newest(run):
    assert checkpoint_steps(run / FOLDER) == [9, 6, 3]
    restored = restore_latest(run / FOLDER, state_at(0))
    assert state_hash(restored.state) == state_hash(state_at(9))
    assert type(restored.state) is type(state_at(0))
    assert (restored.step, restored.skipped) == (9, [])
    assert restored.config == {"seed": 4, "model": {"width": 8}}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, reason):
    DAMAGE[reason](run / FOLDER / "9")
    restored = restore_latest(run / FOLDER, state_at(0))
    assert restored.step == 6
    assert state_hash(restored.state) == state_hash(state_at(6))
    assert [step for step, _ in restored.skipped] == [9]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(restored.skipped[0][1])


def test_two_damaged_checkpoints_then_the_third(run):
    flip(run / FOLDER / "9")
    empty(run / FOLDER / "6")
    restored = restore_latest(run / FOLDER, state_at(0))
    assert restored.step == 3
    assert [step for step, _ in restored.skipped] == [9, 6]


def test_nothing_good_is_none_and_a_sentence(run, tmp_path):
    for step in (3, 6, 9):
        flip(run / FOLDER / str(step))
    assert restore_latest(run / FOLDER, state_at(0))[:2] == (None, None)
    with pytest.raises(ValueError, match=r"no good checkpoint \(step 9: .*checksum"):
        load_params(run)
    assert newest_good_step(tmp_path / "nowhere") == (None, [])
    with pytest.raises(ValueError, match="none found"):
        load_params(tmp_path / "nowhere")


def test_load_params_takes_the_average_by_default(run):
    loaded = load_params(run)
    assert (loaded.step, loaded.config["seed"]) == (9, 4)
    assert state_hash(loaded.params) == state_hash(state_at(9).ema_params)
    assert state_hash(load_params(run, ema=False).params) == state_hash(state_at(9).params)
    flip(run / FOLDER / "9")
    fallen_back = load_params(run, ema=False)
    assert fallen_back.step == 6
    assert state_hash(fallen_back.params) == state_hash(state_at(6).params)


def test_another_model_is_told_apart_from_damage(run):
    state = state_at(0)
    wider = state._replace(params=state.params | {"out": jnp.zeros((32, 99))})
    with pytest.raises(ValueError, match=r"step 9 does not fit this run \(params\.out: saved"):
        restore_latest(run / FOLDER, wider)
    with pytest.raises(ValueError, match=r"filter\.seen: saved int32\[12\], expected nothing"):
        restore_latest(run / FOLDER, state._replace(filter=None))
    with pytest.raises(ValueError, match=r"step: saved int32\[\], expected float32\[\]"):
        restore_latest(run / FOLDER, state._replace(step=jnp.zeros(())))
    with pytest.raises(ValueError, match=r"key: saved uint32\[2\], expected uint32\[3\]"):
        restore_latest(run / FOLDER, state._replace(key=jnp.zeros(3, jnp.uint32)))


def test_set_aside_keeps_what_was_sealed_and_drops_what_was_cut_short(run):
    for _ in range(2):
        shutil.copytree(run / FOLDER / "3", run / FOLDER / "12")
        set_aside(run / FOLDER, [(12, "test")])
    empty(run / FOLDER / "9")
    set_aside(run / FOLDER, [(9, "test")])
    assert checkpoint_steps(run / FOLDER) == [6, 3]
    aside = run / "checkpoints_set_aside"
    assert sorted(p.name for p in aside.iterdir()) == ["12", "12-1"]


def test_what_is_saved_is_not_touched_by_the_steps_that_follow(tmp_path):
    """The next steps donate and overwrite the buffers while they are still being written."""
    state, step = toy_run.new_run()
    writer = CheckpointWriter(tmp_path)
    for index in range(3):
        state, _ = step(state, toy_run.batch_at(index))
    expected = state_hash(state)
    writer.save(3, state)
    for index in range(3, 30):
        state, _ = step(state, toy_run.batch_at(index))
    writer.close()
    fresh, _ = toy_run.new_run()
    assert state_hash(restore_latest(tmp_path, fresh).state) == expected


def test_a_failed_save_is_raised_not_swallowed(tmp_path, monkeypatch):
    def full(folder):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    writer = CheckpointWriter(tmp_path)
    writer.save(1, state_at(1))
    with pytest.raises(OSError, match="no space left"):
        writer.close()
    assert newest_good_step(tmp_path)[0] is None


def test_the_manifest_lists_every_file(run):
    folder = run / FOLDER / "9"
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        *listed,
        MANIFEST,
    }
    assert np.all([len(entry["sha256"]) == 64 for entry in listed.values()])


def test_one_checkpoint_is_too_few(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep is 1"):
        CheckpointWriter(tmp_path, max_to_keep=1)


def swap(run, one, other):
    folder = run / FOLDER
    (folder / one).rename(folder / "x")
    (folder / other).rename(folder / one)
    (folder / "x").rename(folder / other)


def without_step(folder):
    """As a version sealed it that did not name the step."""
    file = folder / MANIFEST
    file.write_text(json.dumps({"files": json.loads(file.read_text())["files"]}))


def test_renamed_folders_are_noticed(run):
    swap(run, "9", "6")
    restored = restore_latest(run / FOLDER, state_at(0))
    assert restored.step == 3
    assert state_hash(restored.state) == state_hash(state_at(3))
    assert dict(restored.skipped).keys() == {9, 6}
    assert "it is the checkpoint of step 6, so its folder was renamed" in dict(restored.skipped)[9]
    shutil.rmtree(run / FOLDER / "3")
    with pytest.raises(ValueError, match=r"no good checkpoint .*renamed.*: put that right"):
        load_params(run)


def test_a_copy_under_a_later_step_is_noticed(run):
    shutil.copytree(run / FOLDER / "3", run / FOLDER / "12")
    assert newest_good_step(run / FOLDER)[0] == 9
    assert load_params(run).step == 9


def test_the_configuration_and_the_step_are_sealed(run):
    file = run / FOLDER / "9" / "config" / "metadata"
    file.write_text(file.read_text().replace("4", "5"))
    assert load_params(run).skipped == [(9, "config/metadata does not match its checksum")]
    file = run / FOLDER / "6" / MANIFEST
    file.write_text(file.read_text().replace('"step": 6', '"step": 7'))
    assert load_params(run).step == 3


def test_a_checkpoint_of_a_version_that_sealed_no_step_opens(run):
    for step in ("9", "6"):
        without_step(run / FOLDER / step)
    assert restore_latest(run / FOLDER, state_at(0)).step == 9
    assert load_params(run).step == 9
    swap(run, "9", "6")
    for reading in (lambda: load_params(run), lambda: restore_latest(run / FOLDER, state_at(0))):
        with pytest.raises(ValueError, match=r"9 is the checkpoint of step 6.*rename it to 6"):
            reading()


@pytest.mark.parametrize("place", ["folder", "file", "manifest"])
def test_an_unreadable_checkpoint_is_passed_over_and_kept(run, monkeypatch, place):
    folder = run / FOLDER / "9"
    refused = {"folder": folder, "file": biggest_file(folder), "manifest": folder / MANIFEST}[place]
    for name in ("open", "listdir", "scandir"):
        real = getattr(os, name)

        def refuse(path, *given, real=real, **more):
            if isinstance(path, str | os.PathLike) and os.fspath(path) == str(refused):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *given, **more)

        monkeypatch.setattr(os, name, refuse)
    real_open = io.open

    def opened(path, *given, **more):
        if isinstance(path, str | os.PathLike) and os.fspath(path) == str(refused):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *given, **more)

    for module in ("builtins.open", "io.open"):
        monkeypatch.setattr(module, opened)
    loaded = load_params(run)
    assert loaded.step == 6
    ((step, reason),) = loaded.skipped
    assert step == 9
    assert "cannot be read (Permission denied" in reason
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *given: (_ for _ in ()).throw(OSError(13, "no")))
        with pytest.raises(
            ValueError, match=r"9 can be neither used nor moved \(.*make it readable"
        ):
            set_aside(run / FOLDER, loaded.skipped)
    set_aside(run / FOLDER, loaded.skipped)
    monkeypatch.undo()
    assert is_sealed(run / "checkpoints_set_aside" / "9")


def test_no_training_starts_anew_beside_whole_checkpoints(run):
    for step in ("3", "6"):
        shutil.rmtree(run / FOLDER / step)
    (run / FOLDER / "9").rename(run / FOLDER / "10")
    state, step = toy_run.new_run()
    with pytest.raises(ValueError, match=r"no checkpoint to go on from \(step 10: .*renamed"):
        train(
            state,
            step,
            toy_run.batches_from,
            workdir=run,
            total_steps=12,
            tensorboard=False,
            progress=False,
        )
    assert checkpoint_steps(run / FOLDER) == [10]

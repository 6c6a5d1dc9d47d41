"""Where the time goes, signs of life, the report before giving up, room on the disk, exports."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from memjax.runtime.clock import Clock
from memjax.runtime.hosts import Heartbeat
from memjax.training import checkpoint
from memjax.training.checkpoint import require_space, state_bytes
from memjax.training.export import export_params, import_params
from memjax.training.loop import Speed, TrainingDiverged, train
from memjax.training.meter import NAN_REPORT_FILE as REPORT
from memjax.training.meter import Meter
from memjax.training.step import TrainOptions
from tests.training.toy_run import batches_from, init_params, new_run


def run(workdir, batches=batches_from, total=8, **options):
    state, step = new_run(TrainOptions())  # no filter: a bad image spoils the whole batch
    options = {"checkpoint_every": 4, "log_every": 2, "tensorboard": False, **options}
    return train(
        state, step, batches, workdir=workdir, total_steps=total, progress=False, **options
    )


def test_rows_say_where_the_time_went_and_how_fast_it_was(tmp_path):
    def slow(start):
        return batches_from(start, seconds=0.05)

    result = run(tmp_path, slow, speed=Speed(1e6, 1e9))
    assert result.compile_seconds > 0
    rows = result.history
    for row in rows:
        parts = [row[f"{n}_seconds"] for n in ("compute", "data", "checkpoint", "samples")]
        assert sum(parts) == pytest.approx(row["seconds"], rel=1e-6)
        assert row["data_seconds"] >= 2 * 0.05
        assert row["tflop_per_second"] == pytest.approx(row["images_per_second"] * 1e-6)
        assert row["mfu"] == pytest.approx(row["images_per_second"] * 1e-3)
    # Saving at step 4 falls into the row after it.
    assert rows[2]["checkpoint_seconds"] > 0
    assert rows[0]["checkpoint_seconds"] == 0


def test_a_clock_counts_what_has_no_name_as_computing(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock()
    now[0] = 3.0
    with clock.part("data"):
        now[0] = 5.0
    with contextlib.suppress(KeyError), clock.part("checkpoint"):
        now[0] = 9.0
        raise KeyError
    now[0] = 10.0
    took = clock.take()
    assert took == {
        "seconds": 10.0,
        "compute_seconds": 4.0,
        "data_seconds": 2.0,
        "checkpoint_seconds": 4.0,
        "samples_seconds": 0.0,
    }
    assert clock.take()["seconds"] == 0.0


def test_rows_fetched_together_have_the_speed_of_their_steps_together(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter(3)
    rows = []
    for step in range(1, 6):
        meter.add({"loss": 1.0, "skipped": 0}, images=8, step=step)
        now[0] += 4.0 if step == 5 else 2.0  # waits for the step before; at the end for both
        meter.close_window(step)
        rows += meter.fetch(step, wait=step == 5)
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5]
    # The first step is not counted; the last two come at once, when the fifth has been waited for.
    assert [row["images_per_second"] for _, row in rows] == [0.0, 4.0, 4.0, 4.0, 4.0]


def test_unknown_speeds_are_left_out():
    meter = Meter(3)
    meter.add({"loss": 1.0, "skipped": 0}, images=4)
    meter.close_window(1)
    ((_, row),) = meter.fetch(1, wait=True)
    assert "mfu" not in row
    assert "tflop_per_second" not in row


def test_a_heart_beats_now_and_then(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    heart = Heartbeat(tmp_path, interval=10.0)
    file = tmp_path / "heartbeat" / "process-0.json"

    def step():
        return json.loads(file.read_text())["step"]

    heart.beat(1)
    assert step() == 1
    now[0] = 109.0
    heart.beat(2)
    assert step() == 1
    heart.beat(3, force=True)
    assert step() == 3
    now[0] = 120.0
    heart.beat(4)
    assert step() == 4


def poisoned(first, bad_row=None):
    """Batches whose images are not finite from a step on."""

    def batches(start):
        for number, batch in enumerate(batches_from(start), start=start + 1):
            if number >= first:
                image = batch.image.copy()
                image[2, 0, 0, 0] = np.nan
                row = batch.row.copy()
                row[2] = 7
                batch = batch._replace(image=image, row=row)
            yield batch

    return batches


def test_the_report_names_steps_rows_and_norms_before_any_bad_weight(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"See .*nan_report.json"):
        run(tmp_path, poisoned(6), total=40, max_skips=4, log_every=1)
    report = json.loads((tmp_path / REPORT).read_text())
    assert [entry["step"] for entry in report["steps"]] == [6, 7, 8, 9]
    assert all(entry["loss"] == entry["grad_norm"] == "nan" for entry in report["steps"])
    assert 7 in report["rows_in_all_steps"]
    assert report["updates"] == 5
    assert report["total_skipped"] >= 4
    assert all(np.isfinite(v) for norms in report["norms"].values() for v in norms.values())
    bad = [entry for entry in report["last_batch"] if entry["not_finite"]]
    assert [(entry["row"], entry["not_finite"]) for entry in bad] == [(7, 1)]


def test_a_profile_is_a_file_that_the_tools_read(tmp_path):
    run(tmp_path, total=12, profile_steps=2)
    files = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 1000
    with pytest.raises(ValueError, match="profile_steps is -1"):
        run(tmp_path / "other", profile_steps=-1)


def test_a_full_disk_is_found_out_before_anything_is_compiled(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        ValueError, match=r"has 1.0 kB free, expected at least .* for 2 checkpoints"
    ):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    require_space("gs://bucket/run", init_params())  # a bucket has no end


def test_the_bytes_of_a_state_are_those_of_its_leaves():
    tree = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.int8), "k": jax.random.key(0)}
    assert state_bytes(tree) == 48 + 5 + 16


def test_exported_weights_come_back_bit_for_bit(tmp_path):
    from safetensors import safe_open

    params = {
        "net": {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}},
        "t": np.ones(2),
    }
    path = export_params(params, tmp_path / "weights.safetensors", {"seed": 3})
    back = import_params(path)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["memjax"]) == {"seed": 3}
        assert set(file.keys()) == {"net/conv/kernel", "t"}
    with pytest.raises(ValueError, match=r"weights.bin is no .safetensors file"):
        export_params(params, tmp_path / "weights.bin", {})

"""What a run shows and writes besides checkpoints: metrics, progress, samples, whole files."""

import errno
import io
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from memjax.runtime import files
from memjax.training.logging import (
    METRICS_FILE,
    MetricsWriter,
    Progress,
    duration,
    image_grid,
    png_bytes,
    read_metrics,
    write_grid,
)
from tests.commands import PATIENCE


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_rows_beyond_the_restored_step_are_dropped(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": 1.0 / step, "grad_norm": float("nan")})
    writer.close()
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"step": 40, "lo')
    writer = MetricsWriter(tmp_path, start_step=20, tensorboard=False)
    writer.scalars(30, {"loss": 7.0})
    writer.close()
    rows = read_metrics(tmp_path / METRICS_FILE)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[1]["loss"] == 0.05
    assert rows[1]["grad_norm"] is None
    assert rows[2]["loss"] == 7.0
    assert read_metrics(tmp_path / "nothing.jsonl") == []


def test_tensorboard_gets_scalars_and_images(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.scalars(1, {"loss": 0.5})
    writer.image(1, "samples", np.zeros((4, 4, 1), np.uint8))
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert b"loss" in data
    assert b"samples" in data
    assert b"PNG" in data


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.json"
    files.write_bytes(path, b"old")

    def broken(*args):
        raise OSError("disk")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="disk"):
        files.write_bytes(path, b"new, longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_lines_where_there_is_no_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = Progress(100, 20, stream=stream, interval=0.0)
    for step, speed, seconds in ((21, 0.0, 90.0), (61, 123.4, 20.0)):  # the first step compiles
        now[0] += seconds
        bar.update(step, 0.25, speed)
    bar.close()
    assert stream.getvalue().splitlines() == [
        "step 21/100  loss 0.2500",
        "step 61/100  loss 0.2500  123.4 images/s  00:20 left",
    ]


def test_lines_are_rare_but_the_last_one_always_comes():
    stream = io.StringIO()
    bar = Progress(100, stream=stream, interval=3600.0)
    for step in range(1, 101):
        bar.update(step, 1.0, 1.0)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("step 100/100")


def test_a_bar_on_a_terminal_and_silence_elsewhere():
    stream = Terminal()
    bar = Progress(10, stream=stream)
    bar.update(5, 0.5, 10.0)
    bar.close()
    assert "loss 0.5000" in stream.getvalue()
    assert "5/10" in stream.getvalue()
    silent = Terminal()
    bar = Progress(10, stream=silent, enabled=False)
    bar.update(10, 0.5, 10.0)
    bar.close()
    assert silent.getvalue() == ""


def test_durations():
    assert [duration(s) for s in (-1, 61.4, 3723)] == ["00:00", "01:01", "1:02:03"]


def test_grid_places_each_image():
    images = np.linspace(-1, 1, 5).reshape(5, 1, 1, 1) * np.ones((1, 3, 4, 1))
    grid = image_grid(images, padding=1)
    assert grid.shape == (7, 14, 1)
    corners = [grid[y, x, 0] for y, x in ((0, 0), (0, 5), (0, 10), (4, 0), (4, 5))]
    assert corners == [0, 64, 128, 191, 255]
    assert (grid[4:, 10:] == 0).all()
    assert (grid[3] == 0).all()


def test_grid_clips_and_survives_values_that_are_not_finite():
    images = np.array([-7.0, 7.0, np.nan, np.inf]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(image_grid(images, 4, 0)[0, :, 0], [0, 255, 0, 255])
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected"):
        image_grid(np.zeros((2, 2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    images = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, channels))
    path = write_grid(tmp_path / "grid.png", images, columns=3)
    with Image.open(path) as image:
        pixels = np.asarray(image).reshape(18, 28, channels)
    np.testing.assert_array_equal(pixels, image_grid(images, 3))
    assert png_bytes(image_grid(images, 3)) == path.read_bytes()


def test_rows_are_strict_json(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.scalars(1, {"a": np.float32(np.inf), "b": np.int64(3)})
    writer.close()
    row = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=pytest.fail)
    assert (row["a"], row["b"]) == (None, 3.0)


def test_metrics_do_not_import_torch_where_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from memjax.training.logging import MetricsWriter\n"
        f"MetricsWriter({str(tmp_path / 'run')!r}).close()\n"
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_damaged_rows_are_kept_aside_and_cost_no_other(tmp_path, caplog):
    good = [f'{{"step": {step}, "loss": 1.0}}\n'.encode() for step in (10, 20, 30, 40)]
    bad = [b'{"step": 15, "loss": "\x80"}\n', b'{"step": "x"}\n', b'["step"}\n']
    file = tmp_path / METRICS_FILE
    file.write_bytes(good[0] + bad[0] + bad[1] + good[1] + bad[2] + good[2] + good[3])
    with caplog.at_level(logging.WARNING, "memjax"):
        assert [row["step"] for row in read_metrics(file)] == [10, 20, 30, 40]
        writer = MetricsWriter(tmp_path, start_step=30, tensorboard=False)
    writer.close()
    assert [row["step"] for row in read_metrics(file)] == [10, 20, 30]
    assert (tmp_path / f"{METRICS_FILE}.unreadable").read_bytes() == b"".join(bad)
    assert "metrics.jsonl: 3 lines cannot be read" in caplog.text
    assert "(line 2, 3, 5:" in caplog.text


def test_events_that_a_full_disk_refused_are_not_tried_again_at_exit(tmp_path, monkeypatch):
    """tensorboardX closes its file at exit, too, and a second error there is a traceback."""
    writer = MetricsWriter(tmp_path)
    events = writer._events.file_writer.event_writer

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(events, "flush", full)
        with pytest.raises(OSError, match="No space left"):
            writer.close()
        events.close()
    events._closed = False
    events.close()

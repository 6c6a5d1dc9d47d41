"""``memjax launch --target=local`` with the real training, in two processes."""

import os
import subprocess
import sys

import pytest

from tests.commands import PATIENCE


@pytest.mark.thorough
def test_two_processes_train_one_run(tmp_path):
    workdir = tmp_path / "run"
    words = ["--target=local", "--processes=2", "--max-restarts=0", f"--workdir={workdir}"]
    words += ["--config=phantoms_demo:short"]
    done = subprocess.run(
        [sys.executable, "-m", "memjax", "launch", *words, "--", "--config.train.steps=4"],
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"done: {workdir} at step 4" in done.stdout
    assert "2 x cpu" in done.stdout
    assert "process 1 of 2" in (workdir / "logs" / "process-1.log").read_text()
    assert (workdir / "checkpoints").is_dir()
    assert any((workdir / "compile_cache").iterdir())

"""The real configurations start on CheXpert's layout with bad rows and files in it, and say so."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memjax.data.phantoms.folder import write_phantoms
from tests.commands import PATIENCE, memjax

pytestmark = pytest.mark.thorough

TINY = (
    "--config.model.block_out_channels=(32, 32, 32)",
    "--config.model.attention_blocks=(False, False, True)",
    "--config.model.layers_per_block=1",
    "--config.model.mid_attention=False",
    "--config.model.cross_attention_dim=32",
    "--config.model.dtype=float32",
    "--config.train.steps=2",
    "--config.train.batch_size=4",
    "--config.train.warmup_steps=1",
    "--config.train.sample_every=0",
    "--config.train.log_every=1",
)
FOUND = ("missing file: 1", "corrupt image: 1", "impossible value: 1", "impossible age: 1")


def table(root: Path) -> list[list[str]]:
    with open(root / "train.csv", newline="") as file:
        return list(csv.reader(file))


def write_table(root: Path, rows: list[list[str]]) -> None:
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.fixture
def damaged(tmp_path):
    """CheXpert's layout with four things wrong in it, and where they are."""
    root = tmp_path / "CheXpert-v1.0-small"
    write_phantoms(
        root, size=64, num_images=14, num_held_out=6, num_duplicated=1, copies=4, markers=False
    )
    for extra in ("markers.csv", "phantoms.json"):
        (root / extra).unlink()
    rows = table(root)
    places = [row[0].removeprefix("CheXpert-v1.0-small/") for row in rows]
    frontal = [i for i, row in enumerate(rows) if "Frontal" in row and i > 0]
    gone, torn, wrong, old = frontal[:4]
    (root / places[gone]).unlink()
    picture = (root / places[torn]).read_bytes()
    (root / places[torn]).write_bytes(picture[: len(picture) // 3])
    rows[wrong][rows[0].index("Edema")] = "2.0"
    rows[old][rows[0].index("Age")] = "-5"
    write_table(root, rows)
    names = (places[gone], places[torn], f"train.csv row {wrong + 1}, column 'Edema'", "'-5'")
    return root, names, len(frontal) - 3


def test_guided_training_starts_at_128_pixels_and_says_what_is_wrong(damaged, tmp_path):
    """In a process of its own: what is said must reach the console."""
    root, names, usable = damaged
    work = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "memjax", "train", "--config=chexpert_cfg", *TINY),
            *(f"--config.data.root={root}", f"--workdir={work}"),
            "--config.data.held_out_fraction=0",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for word in (*FOUND, *names):
        assert word in done.stderr
    assert f"{usable} training images" in done.stdout
    record = json.loads((work / "run.json").read_text())
    assert record["config"]["data"]["size"] == 128
    assert sum(record["data"]["problems"].values()) == 4
    assert record["data"]["train"] == usable
    assert json.loads((work / "training.json").read_text())["steps"] == 2
    assert (work / "checkpoints" / "2").is_dir()


def test_unconditional_training_starts_and_its_model_refuses_guidance(damaged, tmp_path, caplog):
    root, names, _ = damaged
    work = tmp_path / "run"
    small = (
        "--config.data.size=16",
        "--config.model.block_out_channels=(8,)",
        "--config.model.attention_blocks=(False,)",
        "--config.model.num_heads=1",
        "--config.model.norm_num_groups=8",
    )
    done = memjax(
        *("train", "--config=chexpert_uncond", *TINY, *small),
        *(f"--config.data.root={root}", f"--workdir={work}"),
    )
    assert done.code == 0, done.err
    said = caplog.text + done.err
    assert all(word in said for word in (*FOUND, *names))
    assert json.loads((work / "training.json").read_text())["cond_dropout"] == 1
    refused = memjax("audit", f"--model={work}")
    assert refused.code == 2
    assert "without a null condition" in refused.err


def test_strict_refuses_before_training_and_lists_everything(damaged, tmp_path):
    root, names, _ = damaged
    done = memjax(
        *("train", "--config=chexpert_cfg", *TINY, "--config.data.strict=True"),
        *(f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}"),
    )
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "4 problems" in done.err
    assert "without strict" in done.err
    assert all(word in done.err for word in (*FOUND, *names))
    assert not (tmp_path / "run").exists()


def test_a_wrong_column_is_named(damaged, tmp_path):
    root, _, _ = damaged
    rows = table(root)
    rows[0][rows[0].index("Pleural Effusion")] = "Pleural Efusion"
    write_table(root, rows)
    done = memjax(
        *("train", "--config=chexpert_cfg", *TINY),
        *(f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}"),
    )
    assert done.code == 2
    assert "lacks 'Pleural Effusion'" in done.err
    assert "misspelt as 'Pleural Efusion'" in done.err
    assert not (tmp_path / "run").exists()

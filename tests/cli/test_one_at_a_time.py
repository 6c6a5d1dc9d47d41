"""Two starts into one place, files of a user, inputs as outputs, and a stop: every command."""

import os
import signal
import subprocess
import sys
import time

import pytest

from memjax.cli.main import COMMANDS
from tests.commands import PATIENCE, held_elsewhere, memjax, read_rows, write_prompts

PROMPTS = ("--model={folder}/model", "--prompts={prompts}")
FOLDERS = ("--generated={images}", "--training={training}")
SHORT = "--config=phantoms_demo:short"
# Command → its arguments, whose last one is the place, and a file that it would write there.
WRITING = {
    "demo": ((SHORT, "--workdir={out}"), "report.html"),
    "train": ((SHORT, "--workdir={out}"), "metrics.jsonl"),
    "sample": ((*PROMPTS, "--out={out}"), "prompts.jsonl"),
    "detect": ((*PROMPTS, "--out={out}"), None),
    "explain": ((*PROMPTS, "--out={out}"), "words.html"),
    "mitigate": ((*PROMPTS, "--out={out}"), "table.csv"),
    "audit": (("--model={folder}/model", "--workdir={out}"), "report.json"),
    "data": ((SHORT, "--out={out}"), "rows.csv"),
    "copies": ((*FOLDERS, "--out={out}"), "index.html"),
    "extract": (("--model={folder}/model", "--out={out}"), "extract.json"),
    "sweep": (("--config=sweep_guidance:quick", "--workdir={out}"), "sweep.jsonl"),
    "fit": ((SHORT, "--topology=v5e:2x2", "--out={out}"), None),
    "bench": (("--what=knn", "--out={out}"), None),
    "convert": (("--from={folder}/model", "--to={out}"), None),
}
FILES = ("detect", "fit", "bench")
FAST = ("--generations=1", "--num_steps=2", "--chunk=1")


def filled(command, tmp_path):
    """The command's arguments and its place; nothing is read but the prompts."""
    places = {"folder": tmp_path, "out": tmp_path / "out"}
    for name in ("images", "training"):
        places[name] = tmp_path / name
        places[name].mkdir()
    places["prompts"] = write_prompts(tmp_path / "p.jsonl", {"caption": "a cat"})
    return [command, *(a.format(**places) for a in WRITING[command][0])], places["out"]


def listing(root):
    return {p: p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def test_every_command_that_writes_is_here():
    assert set(WRITING) == set(COMMANDS) - {"doctor", "launch"}


@pytest.mark.parametrize("command", WRITING)
def test_a_second_start_is_refused_and_changes_nothing(command, tmp_path):
    arguments, out = filled(command, tmp_path)
    beside = command in (*FILES, "convert")
    if not beside:
        out.mkdir()
    lock = tmp_path / ".out.lock" if beside else out / ".lock"
    with held_elsewhere(lock):
        before = listing(tmp_path)
        done = memjax(*arguments)
        assert done.code == 2
        assert f"{out} is in use by another run" in done.err
        assert listing(tmp_path) == before


@pytest.mark.parametrize("command", [name for name in WRITING if name != "convert"])
def test_a_users_file_is_not_replaced(command, tmp_path):
    arguments, out = filled(command, tmp_path)
    name = WRITING[command][1]
    theirs = out if name is None else out / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("theirs")
    before = listing(tmp_path)
    done = memjax(*arguments)
    assert done.code == 2
    assert f"{theirs} is there and was not written by this command" in done.err
    assert "--force" in done.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["detect", "sample", "mitigate", "explain"])
def test_an_input_is_not_replaced_even_with_force(command, tmp_path):
    arguments, out = filled(command, tmp_path)
    name = {"sample": "prompts.jsonl", "mitigate": "mitigated.jsonl", "explain": "tokens.jsonl"}
    prompts = out / name[command] if command in name else out
    prompts.parent.mkdir(exist_ok=True)
    write_prompts(prompts, {"caption": "a cat"})
    before = listing(tmp_path)
    done = memjax(*arguments, f"--prompts={prompts}", "--force")
    assert done.code == 2
    assert f"{prompts} is also read by this command" in done.err
    assert listing(tmp_path) == before


def test_a_file_of_the_model_is_not_replaced(run, prompts):
    before = (run / "run.json").read_bytes()
    for more in ((), ("--force",)):
        arguments = (f"--model={run}", f"--prompts={prompts}", f"--out={run / 'run.json'}")
        done = memjax("detect", *arguments, *more)
        assert done.code == 2
        assert "run.json is also read by this command" in done.err
    assert (run / "run.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_one_output_and_a_stop_that_goes_on(text_model, tmp_path, number):
    """The first one is held still inside, so that the second and third meet it for certain."""
    count, out = 30, tmp_path / "s.jsonl"
    file = write_prompts(tmp_path / "p.jsonl", *({"caption": f"cat {i}"} for i in range(count)))
    arguments = ["detect", f"--model={text_model}", f"--prompts={file}", f"--out={out}", *FAST]
    ours = signal.signal(number, signal.SIG_DFL)  # a test in the background ignores SIGINT
    first = subprocess.Popen(
        [sys.executable, "-m", "memjax", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, ours)
    parts = tmp_path / "s.jsonl.parts"
    until = time.monotonic() + PATIENCE
    while len(list(parts.glob("part-*.npz"))) < 2:
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    before = listing(tmp_path)
    for _ in range(2):
        done = memjax(*arguments)
        assert done.code == 2
        assert "s.jsonl is in use by another run" in done.err
        assert listing(tmp_path) == before
    first.send_signal(number)
    first.send_signal(signal.SIGCONT)
    said = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 75, said
    assert f"stopped by {number.name}; what was done is kept: start the same command" in said
    done = memjax(*arguments)
    assert done.code == 0, done.err
    assert "prompts were scored by an earlier run" in done.out
    assert [row["caption"] for row in read_rows(out)] == [f"cat {i}" for i in range(count)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".s.jsonl.lock", "p.jsonl", "s.jsonl"]

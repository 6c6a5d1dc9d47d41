"""What is handed to gcloud, xpk, kubectl, sbatch and sky: exact words, through stand-ins."""

import os
import signal
import subprocess
import time

import pytest

from memjax.tools.launch.targets import PLANS
from tests.commands import PATIENCE, memjax
from tests.tools.launch.launches import HOSTILE, calls, options, path_with, stub
from tests.tools.launch.test_yaml import kubernetes_reads

TRAIN = ["train", "--config=chexpert_cfg", "--workdir=/mnt/runs", *HOSTILE]
FOLDER = "out dir/launch/films"
SUBMITTED = {
    "gke-xpk": ("xpk", ["workload", "create", "--cluster=c", "--workload=films"]),
    "jobset": ("kubectl", ["create", f"--filename={FOLDER}/jobset.yaml"]),
    "skypilot": (
        "sky",
        ["jobs", "launch", "--yes", "--detach-run", "--name=films", f"{FOLDER}/skypilot.yaml"],
    ),
}
FLAGS = {
    "gke-xpk": ("--accelerator=v5e-16", "--cluster=c"),
    "skypilot": ("--accelerator=A100:1",),
    "jobset": (),
    "slurm": (),
}


@pytest.fixture
def tools(tmp_path, monkeypatch):
    folder = tmp_path / "tools"
    for name in ("gcloud", "xpk", "kubectl", "sbatch", "sky"):
        stub(folder, name)
    monkeypatch.setenv("PATH", path_with(folder)["PATH"])
    monkeypatch.chdir(tmp_path)
    return folder


def launch(target, *flags):
    common = ("--config=chexpert_cfg", "--workdir=/mnt/runs", "--run_id=films", "--out=out dir")
    return memjax("launch", f"--target={target}", *common, *FLAGS[target], *flags, "--", *HOSTILE)


@pytest.mark.parametrize("target", SUBMITTED)
def test_the_tool_gets_exact_words(target, tools, tmp_path):
    done = launch(target)
    assert done.code == 0, done.err
    name, words = SUBMITTED[target]
    (call,) = calls(tools, name)
    assert call[: len(words)] == words
    written = {path.name for path in (tmp_path / FOLDER).glob("*")}
    assert written == ({call[-1].rpartition("/")[2]} if target != "gke-xpk" else set())


def test_slurm_keeps_its_log_where_it_was_told(tools, tmp_path):
    done = launch("slurm", "--log_dir=100% of; logs")
    assert done.code == 0, done.err
    (call,) = calls(tools, "sbatch")
    assert call == ["--output=100%% of; logs/%x-%j.log", f"{FOLDER}/slurm.sbatch"]
    assert (tmp_path / "100% of; logs").is_dir()


def test_a_tool_that_fails_is_named_and_its_code_returned(tools):
    stub(tools, "kubectl", "sys.exit(3)")
    done = launch("jobset")
    assert done.code == 3
    assert "kubectl ended with exit code 3" in done.err


def test_xpks_container_runs_hostile_words_as_they_are(tools, tmp_path):
    """The command as xpk 1.16 puts it into a container, read by Kubernetes, run by bash."""
    assert launch("gke-xpk", "--install=none").code == 0
    (call,) = calls(tools, "xpk")
    command = call[-1].removeprefix("--command=")
    assert "\n" not in command  # xpk pastes it into an indented block
    script = (
        f"({command}) & PID=$!;\nwhile kill -0 $PID 2>/dev/null; do sleep 0.1; done;\nwait $PID"
    )
    stub(tools, "memjax")
    subprocess.run(["bash", "-c", kubernetes_reads(script)], check=True, cwd=tmp_path)
    assert calls(tools, "memjax") == [[*TRAIN, "--distributed=on"]]
    assert not (tmp_path / "owned").exists()


# Runs what srun is given as a step, writes down its own number, ends with the next code of CODES.
SRUN = """
import subprocess, pathlib
place = pathlib.Path(os.environ["PLACE"])
codes = os.environ["CODES"].split()
turn = place / "turn"
number = int(turn.read_text()) if turn.exists() else 0
turn.write_text(str(number + 1))
import signal
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(place / "step").write_text(str(os.getpid()))
if codes[number] == "wait":
    while not asked:
        signal.pause()
    sys.exit(75)
sys.exit(int(codes[number]))
"""
SCANCEL = """
import pathlib, signal
os.kill(int((pathlib.Path(os.environ["PLACE"]) / "step").read_text()), signal.SIGTERM)
"""


@pytest.fixture
def cluster(tmp_path):
    """SLURM's commands, and the batch script as it would be submitted."""
    tools = tmp_path / "slurm"
    for name, code in {"srun": SRUN, "scancel": SCANCEL, "scontrol": ""}.items():
        stub(tools, name, code)
    hostile = {"setup": "export SETUP='it''s done'", "workdir": "/mnt/runs; touch owned"}
    plan = PLANS["slurm"](options(target="slurm", passed=HOSTILE, **hostile))
    script = tmp_path / "slurm.sbatch"
    script.write_text(plan.files["slurm.sbatch"])

    def start(codes, **environment):
        settings = {"CODES": codes, "PLACE": str(tmp_path), "SLURM_JOB_ID": "42", **environment}
        return subprocess.Popen(
            ["bash", str(script)], env={**path_with(tools), **settings}, cwd=tmp_path
        )

    return tools, start, tmp_path


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [("0", 0, 1), ("2 0", 2, 1), ("1 75 0", 0, 3), ("1 1 1 7 0", 7, 4)],
)
def test_a_batch_job_starts_again_after_a_crash(codes, code, starts, cluster):
    tools, start, folder = cluster
    assert start(codes).wait(timeout=PATIENCE) == code
    words = ["--kill-on-bad-exit=1", "--label", "memjax", "train", "--config=chexpert_cfg"]
    words += ["--workdir=/mnt/runs; touch owned", *HOSTILE, "--distributed=on"]
    assert calls(tools, "srun") == [words] * starts
    assert calls(tools, "scontrol") == []
    assert not (folder / "owned").exists()


def test_requeued_starts_count(cluster):
    tools, start, _ = cluster
    assert start("1 1 0", SLURM_RESTART_COUNT="2").wait(timeout=PATIENCE) == 1
    assert len(calls(tools, "srun")) == 2


def wait_for(path):
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.1)


def test_before_the_time_limit_a_batch_job_saves_and_is_queued_again(cluster):
    tools, start, folder = cluster
    job = start("wait")
    wait_for(folder / "step")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=PATIENCE) == 75
    assert calls(tools, "scancel") == [["--signal=TERM", "42"]]
    assert calls(tools, "scontrol") == [["requeue", "42"]]


def test_a_cancelled_batch_job_does_not_queue_itself_again(cluster):
    tools, start, folder = cluster
    job = start("wait")
    wait_for(folder / "step")
    job.send_signal(signal.SIGTERM)  # as scancel and a preemption do, to the steps as well
    os.kill(int((folder / "step").read_text()), signal.SIGTERM)
    assert job.wait(timeout=PATIENCE) == 75
    assert calls(tools, "scontrol") == []

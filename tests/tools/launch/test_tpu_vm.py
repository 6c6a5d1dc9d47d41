"""The script that watches over a slice, against a cloud of one file: it is run, not read."""

import subprocess

import pytest

from memjax.tools.launch.targets import PLANS
from tests.commands import PATIENCE
from tests.tools.launch.launches import HOSTILE, calls, options, path_with, stub

# A queued resource is a file with its state; ssh and scp act on this machine, in a home of its own
# for each of two workers. Preemptions are listed in a file: the turn of ssh at which they happen.
GCLOUD = """
import contextlib, pathlib, shutil, subprocess
cloud = pathlib.Path(os.environ["CLOUD"])
words = sys.argv[1:]
assert words[:3] == ["compute", "tpus", "queued-resources"], words
verb, name, flags = words[3], words[4], words[5:]
queued = cloud / "state"
homes = [cloud / "home0", cloud / "home1"]
def value(flag):
    return next(w.partition("=")[2] for w in flags if w.startswith(flag + "="))
if verb == "create":
    assert not queued.exists()
    queued.write_text("PROVISIONING")
elif not queued.exists():
    sys.exit("ERROR: NOT_FOUND: " + name)
elif verb == "describe":
    now = queued.read_text()
    print(now)
    if now == "PROVISIONING":
        for home in homes:
            home.mkdir()
        queued.write_text("ACTIVE")
elif verb == "delete":
    assert "--force" in flags
    queued.unlink()
    for home in homes:
        for pid in home.glob("memjax-runs/films/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), 9)
        shutil.rmtree(home, ignore_errors=True)
elif verb == "scp":
    target = words[5].partition(":")[2]
    for home in homes:
        shutil.copy(name, home / target)
elif verb == "ssh":
    turn = cloud / "turn"
    number = int(turn.read_text()) + 1 if turn.exists() else 1
    turn.write_text(str(number))
    preempted = cloud / "preempted"
    if preempted.exists() and number == int(preempted.read_text()):
        queued.write_text("SUSPENDED")
    if queued.read_text() != "ACTIVE":
        sys.exit(255)
    assert value("--node") in ("0", "all")
    chosen = homes if value("--worker") == "all" else homes[:1]
    codes = []
    for home in chosen:
        environment = {**os.environ, "HOME": str(home)}
        shell = ["bash", "-c", value("--command")]
        codes.append(subprocess.run(shell, cwd=home, env=environment).returncode)
    sys.exit(max(codes))
else:
    sys.exit("unknown " + verb)
"""
# Ends with the code that stands next in the worker's file; worker 1 follows worker 0.
MEMJAX = """
import pathlib, time
home = pathlib.Path(os.environ["HOME"])
print("training in", home.name, "with", os.environ["JAX_COMPILATION_CACHE_DIR"], flush=True)
codes = pathlib.Path(os.environ["CLOUD"], "codes-" + home.name)
left = codes.read_text().split()
codes.write_text(" ".join(left[1:]))
time.sleep(0.2)
if left[0] == "hang":
    time.sleep(300)
sys.exit(int(left[0]))
"""


@pytest.fixture
def cloud(tmp_path):
    tools = tmp_path / "tools"
    stub(tools, "gcloud", GCLOUD)
    stub(tools, "memjax", MEMJAX)
    hostile = {"setup": "export SETUP=done; true '$(touch owned)'", "passed": HOSTILE}
    place = {"accelerator": "v5p-16", "zone": "us-east5-a", "spot": True, "install": "none"}
    out = {"out": str(tmp_path / "the out's folder"), "grace": 1, "max_restarts": 2}
    plan = PLANS["tpu-vm"](options(target="tpu-vm", **place, **hostile, **out))
    script = tmp_path / "the out's folder" / "launch" / "films" / "tpu_vm.sh"
    script.parent.mkdir(parents=True)
    for name, text in plan.files.items():
        (script.parent / name).write_text(text)
    assert plan.commands == [["bash", str(script)]]

    def run(codes0, codes1=None):
        (tmp_path / "codes-home0").write_text(codes0)
        (tmp_path / "codes-home1").write_text(codes1 or codes0)
        settings = {"CLOUD": str(tmp_path), "MEMJAX_LAUNCH_POLL": "0.3"}
        return subprocess.run(
            ["bash", str(script)],
            env={**path_with(tools), **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return tmp_path, tools, run


def verbs(tools):
    return [call[3] for call in calls(tools, "gcloud")]


@pytest.mark.slow
def test_a_slice_is_asked_for_used_and_given_back(cloud):
    folder, tools, run = cloud
    done = run("0")
    assert done.returncode == 0, done.stderr
    create = next(call for call in calls(tools, "gcloud") if call[3] == "create")
    assert create[4:] == [
        "films", "--zone=us-east5-a", "--quiet", "--accelerator-type=v5p-16",
        "--runtime-version=v2-alpha-tpuv5", "--node-id=films", "--spot",
    ]  # fmt: skip
    words = ["train", "--config=chexpert_cfg", "--workdir=/mnt/runs", *HOSTILE, "--distributed=on"]
    assert calls(tools, "memjax") == [words] * 2
    assert verbs(tools).count("create") == verbs(tools).count("delete") == 1
    assert not (folder / "state").exists()
    logs = folder / "the out's folder" / "launch" / "films" / "logs"
    assert "training in home0 with /mnt/runs/compile_cache" in (logs / "worker-0.log").read_text()
    assert "training in home0" in done.stdout
    assert not list(folder.rglob("owned"))


@pytest.mark.thorough
def test_saved_and_crashed_runs_start_again_on_the_same_slice(cloud):
    _, tools, run = cloud
    done = run("75 1 0")
    assert done.returncode == 0, done.stderr
    assert len(calls(tools, "memjax")) == 6
    assert verbs(tools).count("create") == verbs(tools).count("scp") == 1
    assert "ended with 75" in done.stderr
    assert "ended with 1:" in done.stderr


@pytest.mark.thorough
def test_when_one_worker_dies_the_others_are_ended(cloud):
    _, tools, run = cloud
    done = run("9 0", "hang 0")
    assert done.returncode == 0, done.stderr
    assert len(calls(tools, "memjax")) == 4
    assert "ended with 9" in done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(("codes", "code", "starts"), [("2", 2, 1), ("7 7 7 7", 1, 3)])
def test_mistakes_and_too_many_crashes_end_it_and_keep_the_slice(codes, code, starts, cloud):
    folder, tools, run = cloud
    done = run(codes)
    assert done.returncode == code, done.stderr
    assert len(calls(tools, "memjax")) == 2 * starts
    assert "delete" not in verbs(tools)
    assert "costs money until" in done.stderr
    logs = folder / "the out's folder" / "launch" / "films" / "logs"
    assert (logs / "all-workers-0.log").read_text().count("training in") == 2


@pytest.mark.slow
def test_a_preempted_slice_is_asked_for_again(cloud):
    folder, tools, run = cloud
    (folder / "preempted").write_text("5")  # while the first training hangs
    done = run("hang 0")
    assert done.returncode == 0, done.stderr
    assert "was preempted: asking for it again" in done.stderr
    assert verbs(tools).count("create") == 2
    assert verbs(tools).count("delete") == 2
    assert len(calls(tools, "memjax")) == 4


@pytest.mark.slow
def test_a_slice_that_was_there_before_is_kept(cloud):
    folder, tools, run = cloud
    (folder / "state").write_text("PROVISIONING")
    done = run("0")
    assert done.returncode == 0, done.stderr
    assert "create" not in verbs(tools)
    assert "delete" not in verbs(tools)
    assert "costs money until it is deleted" in done.stderr


@pytest.mark.slow
def test_a_request_that_failed_is_said(cloud):
    folder, _, run = cloud
    (folder / "state").write_text("FAILED")
    done = run("0")
    assert done.returncode == 1
    assert "the request for films FAILED" in done.stderr


@pytest.mark.slow
def test_a_worker_installs_what_it_is_told(tmp_path):
    target = "memjax[tpu] @ git+https://example.org/it's/memjax"
    place = {"accelerator": "v5e-8", "zone": "z", "install": target, "setup": "export A=b"}
    plan = PLANS["tpu-vm"](options(target="tpu-vm", **place))
    (tmp_path / "worker.sh").write_text(plan.files["worker.sh"])
    stub(tmp_path / "tools", "python3")
    environment = {**path_with(tmp_path / "tools"), "HOME": str(tmp_path)}
    words = ["bash", "worker.sh", "install"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    venv = f"{tmp_path}/memjax-venv"
    assert calls(tmp_path / "tools", "python3") == [
        ["-m", "pip", "install", "--quiet", "--user", "uv"],
        ["-m", "uv", "venv", "--quiet", "--allow-existing", "--python", "3.12", venv],
        ["-m", "uv", "pip", "install", "--quiet", "--python", f"{venv}/bin/python", target],
    ]


def test_it_says_how_to_watch_and_to_delete_the_slice():
    plan = PLANS["tpu-vm"](options(target="tpu-vm", accelerator="v5p-64", zone="z", tpu="mine"))
    watch, delete = plan.after
    assert watch[3:6] == ["queued-resources", "ssh", "mine"]
    assert watch[-1] == "--command=tail --follow memjax-runs/films/train.log"
    assert delete[3:] == ["queued-resources", "delete", "mine", "--zone=z", "--force"]
    assert plan.notes[0] == "v5p-64: 64 TensorCores, 32 chips, topology v5p:2x4x4"

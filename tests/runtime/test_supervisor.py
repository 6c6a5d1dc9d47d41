"""The flags of several processes, where they are found by themselves, and the parent's sentence."""

import sys

import pytest

from memjax.cli.main import main
from memjax.runtime import hosts, supervisor
from memjax.runtime.supervisor import ClusterFlags, explain, split_flags, surroundings, wanted

THREE = ["--coordinator=h0:12", "--num_processes=4", "--process_id=2"]


def test_the_flags_are_taken_out_and_the_rest_stays():
    flags, rest = split_flags(["--config=x:y", *THREE, "--host_timeout", "30", "--workdir=w"])
    assert rest == ["--config=x:y", "--workdir=w"]
    assert flags == ClusterFlags("h0:12", 4, 2, host_timeout=30)
    assert split_flags(["--config.train.steps=3"]) == (ClusterFlags(), ["--config.train.steps=3"])
    assert wanted(flags) == "the flags"
    assert wanted(flags._replace(distributed="off")) is None
    assert wanted(ClusterFlags(distributed="on")) == "--distributed=on"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (THREE[:2], "--coordinator and --num_processes came without --process_id"),
        (["--process_id=1"], "--process_id came without --coordinator and --num_processes"),
        ([*THREE[:2], "--process_id=-1"], "--process_id=-1 is no number"),
        ([*THREE[:2], "--process_id=two"], "--process_id=two is no number"),
        ([*THREE, "--distributed=maybe"], "--distributed=maybe, expected one of auto, on, off"),
        ([*THREE, "--host_timeout=1"], "--host_timeout=1, expected at least 5 seconds"),
        (["--coordinator"], "--coordinator has no value"),
    ],
)
def test_mistakes_get_one_sentence_from_the_command(arguments, said, capsys):
    assert main(["train", "--config=phantoms_demo:short", "--workdir=never", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (hosts.Cluster("nowhere", 2, 0), "is no address, expected HOST:PORT"),
        (hosts.Cluster("h0:port", 2, 0), "is no address, expected HOST:PORT"),
        (hosts.Cluster("h0:12", 2, 2), "--process_id=2 of --num_processes=2 cannot be"),
        (hosts.Cluster("h0:12", 0, 0), "--process_id=0 of --num_processes=0 cannot be"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anyone_is_called(given, said):
    with pytest.raises(ValueError, match=said):
        hosts.start(given)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, "SLURM"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_JOB_ID": "7"}, None),  # an interactive allocation, no step
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "a TPU slice on Kubernetes"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
    ],
)
def test_what_a_cluster_says_of_itself_is_seen(environment, found):
    assert surroundings({"JAX_PLATFORMS": "cpu", **environment}) == found


@pytest.mark.parametrize(("chips", "library", "platform", "found"), [
    (["/dev/accel0"], object(), "", "a TPU virtual machine"),
    (["/dev/accel0"], object(), "cpu", None),
    (["/dev/accel0"], None, "", None),
    ([], object(), "tpu", None),
])  # fmt: skip
def test_a_tpu_machine_is_told_by_its_chips(monkeypatch, chips, library, platform, found):
    found_by = {True: chips, False: []}
    monkeypatch.setattr(supervisor.glob, "glob", lambda pattern: found_by["accel" in pattern])
    monkeypatch.setattr(supervisor.importlib.util, "find_spec", lambda name: library)
    assert surroundings({"JAX_PLATFORMS": platform}) == found


# As the runtime of jax 0.10.2 says it.
SILENT = (
    "E1122 Use error polling to propagate the following error to all tasks: UNAVAILABLE: The "
    "following tasks are unhealthy (stopped sending heartbeats):\n3\n11\nThe tasks have crashed."
)
ABSENT = (
    "DEADLINE_EXCEEDED: Barrier timed out.\n# of tasks that reached the barrier: 2/4.\n"
    "The first task at the barrier: 2. Some timed out task names:\n1\n3\n\nRPC: /xla"
)
UNREACHED = "DEADLINE_EXCEEDED: Deadline\n\nRPC: /xla.coordination.CoordinationService/RegisterTask"
LEADER = "absl::Status: UNAVAILABLE: Failed to send RPC to coordination service. Either the leader"


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        (SILENT, "processes 3 (c), 11 stopped answering"),
        (ABSENT, "processes 1 (host b), 3 (c) did not start within 300 s"),
        (LEADER, "process 0 (a), which coordinates the run, is gone"),
        (UNREACHED, "process 0 was not to be reached at h0:12 within 300 s"),
        ("Segmentation fault", "the JAX runtime ended this process (its last words are above)"),
    ],
)
def test_the_runtimes_last_words_become_a_sentence(said, begins):
    flags = ClusterFlags("h0:12", 4, 2)
    sentence = explain(f"noise\n{said}\nnoise", ["a", "host b", "x", "c"], flags)
    assert sentence.startswith(begins)
    assert "the same command on every host" in sentence
    assert "\n" not in sentence


def test_without_names_the_number_stands_alone():
    assert explain(SILENT, [], ClusterFlags()).startswith("processes 3, 11 stopped")


def supervised(monkeypatch, program):
    monkeypatch.setattr(
        supervisor, "_command", lambda arguments: [sys.executable, "-c", program, *arguments]
    )
    return supervisor.supervise([], ClusterFlags("h0:12", 2, 1))


@pytest.mark.parametrize("code", [0, 2, 75])
def test_the_parent_hands_on_what_the_child_said_and_its_code(monkeypatch, capfd, code):
    program = f"import sys; print('a line', file=sys.stderr); sys.exit({code})"
    assert supervised(monkeypatch, program) == code
    assert capfd.readouterr().err == "a line\n"


def test_an_abrupt_end_asks_to_be_started_again(monkeypatch, capfd):
    program = (
        "import json, os, sys; json.dump(['a', 'b'], open(os.environ['MEMJAX_ROSTER'], 'w'));"
        f"sys.stderr.write({LEADER!r}); sys.stderr.flush(); os.abort()"
    )
    assert supervised(monkeypatch, program) == 75
    assert "memjax: process 0 (a), which coordinates the run, is gone" in capfd.readouterr().err
    assert supervised(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 137

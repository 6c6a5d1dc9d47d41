"""Printed YAML against the fields that JobSet, Kubernetes, Kueue and SkyPilot have."""

import subprocess

import pytest
import yaml

from memjax.tools.launch.targets import PLANS
from tests.tools.launch.launches import HOSTILE, LAUNCHES, dry_run, options, plan_files

JOBSETS = [name for name in LAUNCHES if name.startswith("jobset")]
SKYPILOTS = [name for name in LAUNCHES if name.startswith("skypilot")]


def kubernetes_reads(text):
    """Kubernetes' rule for ``command``: ``$$`` is ``$``, ``$(NAME)`` a variable's value."""
    read, rest = "", text
    while "$" in rest:
        before, _, rest = rest.partition("$")
        read += before
        if rest.startswith("$"):
            read, rest = read + "$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            read, rest = read + "<a variable's value>", rest.partition(")")[2]
        else:
            read += "$"
    return read + rest


def jobset(name):
    return yaml.safe_load(plan_files(dry_run(name))["jobset.yaml"])


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_has_the_fields_of_its_api(name):
    found = jobset(name)
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert found["kind"] == "JobSet"
    assert set(found["metadata"]) <= {"name", "namespace", "labels", "annotations"}
    assert set(found["spec"]) == {"network", "failurePolicy", "replicatedJobs"}
    assert set(found["spec"]["network"]) <= {"enableDNSHostnames", "publishNotReadyAddresses"}
    (job,) = found["spec"]["replicatedJobs"]
    assert set(job) == {"name", "replicas", "template"}
    spec = job["template"]["spec"]
    numbers = ("parallelism", "completions", "backoffLimit")
    assert set(spec) == {*numbers, "completionMode", "podFailurePolicy", "template"}
    assert all(isinstance(spec[name], int) for name in numbers)
    assert spec["parallelism"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy needs it
    assert isinstance(pod["terminationGracePeriodSeconds"], int)
    assert all(isinstance(value, str) for value in pod.get("nodeSelector", {}).values())
    (container,) = pod["containers"]
    assert container["command"][:2] == ["bash", "-c"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", JOBSETS)
def test_a_mistake_ends_a_jobset_and_all_else_restarts_it(name):
    spec = jobset(name)["spec"]
    policy = spec["failurePolicy"]
    assert set(policy) == {"maxRestarts", "rules"}
    assert policy["maxRestarts"] == 10
    assert policy["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    name = job["template"]["spec"]["containers"][0]["name"]
    codes = {"containerName": name, "operator": "In", "values": [2]}
    assert rule == {"action": "FailJob", "onPodConditions": [], "onExitCodes": codes}


def test_a_jobset_on_tpus_asks_for_the_slice():
    found = jobset("jobset")
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "research"}
    assert found["metadata"]["namespace"] == "films"
    topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert found["metadata"]["annotations"] == {topology: "cloud.google.com/gke-nodepool"}
    (job,) = found["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == 4
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": 4}
    assert "--distributed=on" in pod["containers"][0]["command"][2]


def test_a_jobset_on_gpus_says_which_process_is_which():
    pod = jobset("jobset-gpu")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    script = kubernetes_reads(pod["containers"][0]["command"][2])
    assert "pip install" not in script
    assert "--num_processes=2" in script
    assert '--process_id="$JOB_COMPLETION_INDEX"' in script
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_a_pod_runs_hostile_words_as_they_are(tmp_path):
    """What Kubernetes makes of the command, run by a real bash."""
    memjax = tmp_path / "memjax"
    memjax.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@"\n')
    memjax.chmod(0o755)
    plan = PLANS["jobset"](options(target="jobset", install="none", passed=HOSTILE))
    spec = yaml.safe_load(plan.files["jobset.yaml"])["spec"]
    pod = spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    command = [kubernetes_reads(word) for word in pod["containers"][0]["command"]]
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=path, check=True)
    words = done.stdout.decode().split("\0")[:-1]
    assert words == ["train", "--config=chexpert_cfg", "--workdir=/mnt/runs", *HOSTILE]
    assert [path.name for path in tmp_path.iterdir()] == ["memjax"]


RESOURCES = {
    "accelerators": str, "accelerator_args": dict, "infra": str, "use_spot": bool,
    "job_recovery": dict,
}  # fmt: skip
TASK = {
    "name": str, "num_nodes": int, "resources": dict, "file_mounts": dict, "setup": str, "run": str,
}  # fmt: skip


@pytest.mark.parametrize("name", SKYPILOTS)
def test_a_skypilot_task_has_the_fields_of_its_schema(name):
    found = yaml.safe_load(plan_files(dry_run(name))["skypilot.yaml"])
    for fields, allowed in ((found, TASK), (found["resources"], RESOURCES)):
        assert set(fields) <= set(allowed)
        assert all(type(value) is allowed[field] for field, value in fields.items())
    recovery = found["resources"]["job_recovery"]
    assert set(recovery) == {"max_restarts_on_errors", "recover_on_exit_codes"}
    assert recovery["recover_on_exit_codes"] == [75]
    # One machine restarts after a crash by itself, so that a mistake ends the job.
    assert recovery["max_restarts_on_errors"] == (10 if found["num_nodes"] > 1 else 0)
    ((path, mount),) = found["file_mounts"].items()
    assert path == "/mnt/runs"
    assert set(mount) == {"source", "mode"}
    assert mount["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")


def test_skypilot_calls_tpus_by_its_own_names():
    found = yaml.safe_load(plan_files(dry_run("skypilot-tpu"))["skypilot.yaml"])
    assert found["resources"]["accelerators"] == "tpu-v6e-8"
    assert found["resources"]["accelerator_args"] == {"runtime_version": "v2-alpha-tpuv6e"}


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("code", [0, 2, 75, 1])
def test_skypilots_script_restarts_after_a_crash_alone(nodes, code, tmp_path):
    changes = {"target": "skypilot", "accelerator": "A100:1", "nodes": nodes}
    plan = PLANS["skypilot"](options(**changes, passed=HOSTILE))
    venv = tmp_path / "memjax-venv" / "bin"
    venv.mkdir(parents=True)
    memjax = venv / "memjax"
    memjax.write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" "$@" >> {tmp_path}/said\nexit {code}\n')
    memjax.chmod(0o755)
    run = yaml.safe_load(plan.files["skypilot.yaml"])["run"]
    node = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    environment = {
        **node,
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SKYPILOT_NUM_NODES": "2",
    }
    done = subprocess.run(["bash", "-c", run], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == code
    words = (tmp_path / "said").read_bytes().decode().split("\0")[:-1]
    told = ["--coordinator=10.0.0.1:12355", "--num_processes=2", "--process_id=1"]
    expected = ["train", "--config=chexpert_cfg", "--workdir=/mnt/runs", *HOSTILE]
    expected += told if nodes > 1 else []
    assert words == expected * (4 if (nodes, code) == (1, 1) else 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memjax-venv", "said"]

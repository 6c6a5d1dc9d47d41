"""A user's mistake is one sentence with the value, what was expected and the way out."""

import pytest

from memjax.tools.launch.tpu_names import FAMILIES, find_slice, is_tpu
from tests.cli.test_mistakes import assert_refused
from tests.commands import memjax

RUN = ("--config=chexpert_cfg", "--workdir=/mnt/runs")
TPU = ("--target=tpu-vm", "--accelerator=v5e-8", "--zone=us-west4-a", *RUN)
JOBSET = ("--target=jobset", *RUN)
SLURM = ("--target=slurm", *RUN)
MISTAKES = {
    "no target": (RUN, "--target must be given", "local, tpu-vm, gke-xpk"),
    "unknown target": (("--target=gke", *RUN), "gke", "gke-xpk"),
    "unknown flag": ((*TPU, "--sport"), "sport", "Did you mean", "spot"),
    "a word": (("local", *RUN), "'local'", "--flag=value", "after --"),
    "no workdir": (("--target=local", "--config=digits"), "--workdir", "for example"),
    "no config": (("--target=local", "--workdir=runs/a"), "--config", "for example"),
    "unknown configuration": (
        ("--target=local", "--config=digit", "--workdir=runs/a"),
        "'digit'",
        "Did you mean 'digits'?",
    ),
    "unknown configuration there": (
        (*TPU[:3], "--config=chexpert_cgf", "--workdir=/mnt/runs"),
        "--config=chexpert_cgf is not on the machines of --target=tpu-vm",
        "Did you mean 'chexpert_cfg'?",
    ),
    "a file of this folder": (
        (*TPU[:3], "--config=mine.py", "--workdir=/mnt/runs"),
        "mine.py is not on the machines",
        "a path there",
    ),
    "detect with a configuration": (
        ("--target=local", "--job=detect", *RUN),
        "--config=chexpert_cfg",
        "-- --model=runs/demo",
    ),
    "workdir after the dashes": ((*TPU, "--", "--workdir=/mnt/b"), "--workdir=/mnt/b", "before --"),
    "processes after the dashes": ((*TPU, "--", "--process_id=1"), "--process_id=1", "launch"),
    "a flag of another target": (
        (*TPU, "--partition=gpu"),
        "--partition means nothing to --target=tpu-vm",
        "slurm",
    ),
    "no zone": (TPU[:2] + RUN, "--target=tpu-vm needs --zone"),
    "no accelerator, no cluster": (
        ("--target=gke-xpk", *RUN),
        "needs --accelerator and --cluster",
    ),
    "no such generation": (
        ("--target=tpu-vm", "--accelerator=v5-8", "--zone=z", *RUN),
        "v5-8 is no TPU slice",
        "Did you mean v5",
    ),
    "a GPU on TPU VMs": (
        ("--target=tpu-vm", "--accelerator=A100", "--zone=z", *RUN),
        "A100 is no TPU slice",
        "such as v5e-8",
    ),
    "no such size": (
        ("--target=tpu-vm", "--accelerator=v5p-4", "--zone=z", *RUN),
        "v5p-4 is no size of v5p",
        "v5p-8, v5p-16",
        "TensorCores, two a chip",
    ),
    "too small for xpk": (
        ("--target=gke-xpk", "--accelerator=v5e-4", "--cluster=c", *RUN),
        "v5e-4 is not known to xpk",
        "--target=jobset",
    ),
    "slices without TPUs": ((*JOBSET, "--num_slices=2"), "--num_slices=2 needs TPUs", "--nodes"),
    "nodes of a slice": (
        (*JOBSET, "--accelerator=v5e-8", "--nodes=2"),
        "--nodes=2",
        "--num_slices",
    ),
    "spot and reserved": ((*TPU, "--spot", "--reserved"), "exclude each other"),
    "a name with a space": ((*TPU, "--run_id=my run"), "'my run'", "lower-case letter"),
    "a name with a command": ((*SLURM, "--partition=a b;c"), "'a b;c'", "letters, digits"),
    "a name that is too long": ((*TPU, f"--run_id={'a' * 41}"), "too long", "40"),
    "a time that is none": ((*SLURM, "--time=soon"), "'soon'", "minutes or days-hours"),
    "a volume without a place": ((*JOBSET, "--volume=runs"), "'runs'", "SOURCE:/"),
    "a wheel that stays here": (
        (*TPU, "--install=./dist/memjax.whl"),
        "--install=./dist/memjax.whl is a file here",
        "https://",
    ),
    "several processes on one TPU": (
        ("--target=local", "--platform=tpu", "--processes=4", *RUN),
        "--processes=4",
        "--processes=1",
    ),
    "no processes": (("--target=local", "--processes=0", *RUN), "processes", "0"),
    "a run in a bucket": (
        (*TPU[:3], "--config=chexpert_cfg", "--workdir=gs://bucket/run"),
        "--workdir=gs://bucket/run is an address",
        "expected a folder",
        "--volume or --setup",
    ),
    "a NUL": ((*TPU, "--dry-run", "--", "--a=\0"), "NUL"),
}
TOOLS = {
    "gcloud": (TPU, "cloud.google.com/sdk"),
    "xpk": (("--target=gke-xpk", "--accelerator=v5e-8", "--cluster=c", *RUN), "pip install xpk"),
    "kubectl": (JOBSET, "kubernetes.io"),
    "sbatch": (SLURM, "login node"),
    "sky": (("--target=skypilot", "--accelerator=A100:1", *RUN), "pip install skypilot"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, *words = MISTAKES[name]
    assert_refused(memjax("launch", *flags), words, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_tool_is_named_with_where_to_get_it(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    flags, where = TOOLS[tool]
    assert_refused(
        memjax("launch", *flags), (f"needs {tool}", "not on PATH", where, "--dry-run"), {}
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "type_", "chips", "topology"),
    [
        ("v5e-8", "v5litepod-8", 8, "2x4"),
        ("v5litepod-8", "v5litepod-8", 8, "2x4"),
        ("v5e-256", "v5litepod-256", 256, "16x16"),
        ("v5p-64", "v5p-64", 32, "2x4x4"),
        ("v5p-8", "v5p-8", 4, "2x2x1"),
        ("v6e-16", "v6e-16", 16, "4x4"),
        ("v4-32", "v4-32", 16, "2x2x4"),
    ],
)
def test_a_slice_has_the_chips_its_name_means(name, type_, chips, topology):
    found = find_slice(name)
    assert (found.type, found.chips, found.topology) == (type_, chips, topology)
    assert found.vms * found.chips_per_vm == chips


def test_topologies_have_as_many_places_as_chips():
    for name, family in FAMILIES.items():
        for chips, topology in family.topologies.items():
            places = 1
            for side in topology.split("x"):
                places *= int(side)
            assert places == chips, (name, topology)


def test_gpus_are_no_tpus():
    assert is_tpu("v6e-8")
    assert not any(map(is_tpu, ("A100:1", "H100:8", "v100", "")))

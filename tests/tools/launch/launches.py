"""Launches that the tests print, and stand-ins for the tools that they call."""

import json
import os
import stat
import sys
from pathlib import Path

from memjax.tools.launch.options import Options
from tests.commands import memjax

COMMON = ("--config=chexpert_cfg", "--workdir=/mnt/runs/chexpert")
DATA = ("--", "--config.data.root=gs://films/CheXpert-v1.0-small")
LAUNCHES = {
    "local": ("--target=local", "--processes=2", "--devices_per_process=2", *COMMON, *DATA),
    "tpu-vm": (
        "--target=tpu-vm", "--accelerator=v5e-8", "--zone=us-west4-a", "--project=films",
        "--spot", "--setup=sudo mount -t nfs 10.0.0.2:/runs /mnt/runs", *COMMON, *DATA,
    ),
    "tpu-vm-two-slices": (
        "--target=tpu-vm", "--accelerator=v5p-64", "--zone=us-east5-a", "--num_slices=2",
        "--reserved", "--tpu=big", "--log_dir=logs", *COMMON, *DATA,
    ),
    "gke-xpk": (
        "--target=gke-xpk", "--accelerator=v5p-64", "--cluster=films", "--zone=us-east5-a",
        "--project=films", "--volume=runs:/mnt/runs", *COMMON, *DATA,
    ),
    "jobset": (
        "--target=jobset", "--accelerator=v5e-16", "--num_slices=2", "--queue=research",
        "--namespace=films", "--volume=runs:/mnt/runs", "--spot", *COMMON, *DATA,
    ),
    "jobset-gpu": (
        "--target=jobset", "--nodes=2", "--gpus_per_node=8", "--install=none",
        "--image=registry.example/memjax:1", "--volume=runs:/mnt/runs", *COMMON, *DATA,
    ),
    "slurm": (
        "--target=slurm", "--nodes=2", "--gpus_per_node=8", "--partition=gpu", "--time=1-00:00:00",
        "--account=films", "--setup=source /mnt/venv/bin/activate", *COMMON, *DATA,
    ),
    "skypilot": (
        "--target=skypilot", "--accelerator=A100:1", "--spot", "--volume=gs://runs:/mnt/runs",
        *COMMON, *DATA,
    ),
    "skypilot-two-nodes": (
        "--target=skypilot", "--accelerator=H100:8", "--nodes=2", "--infra=aws",
        "--volume=s3://runs:/mnt/runs", *COMMON, *DATA,
    ),
    "skypilot-tpu": (
        "--target=skypilot", "--accelerator=v6e-8", "--volume=gs://runs:/mnt/runs", *COMMON, *DATA,
    ),
}  # fmt: skip
# Words that would do something if any shell or YAML reader took them apart.
HOSTILE = (
    "--a=two words",
    "--b=$(touch owned) `touch owned` ${HOME} $HOME $$ $(HOME)",
    '--c=it\'s "quoted" \\ back',
    "--d=line one\nline two\n  - key: value\r\ttab",
    "--e=; touch owned; # & | > owned < *",
    "--f={{ run_id }} {% raw %} ${{x}} é 😀 \u2028 \x7f",
    "--g=",
    "EOF\n'''\n\"\"\"",
)


def dry_run(name: str, *extra: str) -> str:
    """Prints one of the launches."""
    done = memjax("launch", "--dry-run", *extra, *LAUNCHES[name])
    assert done.code == 0, done.err
    return done.out


def plan_files(printed: str) -> dict[str, str]:
    """Takes a printed plan apart: file name → content."""
    files, name, lines = {}, "", []
    for line in printed.splitlines():
        if line.startswith("# file "):
            name, lines = Path(line.removeprefix("# file ")).name, []
        elif name and line == f"# end of {name}":
            files[name], name = "\n".join(lines) + "\n", ""
        elif name:
            lines.append(line)
    return files


def options(**changes: object) -> Options:
    """Returns options by hand; the command line is tested elsewhere."""
    texts = {name: "" for name, kind in Options.__annotations__.items() if kind is str}
    numbers = {name: 1 for name, kind in Options.__annotations__.items() if kind is int}
    flags = {name: False for name, kind in Options.__annotations__.items() if kind is bool}
    given = {
        "job": "train", "config": "chexpert_cfg", "workdir": "/mnt/runs", "run_id": "films",
        "platform": "cpu", "max_restarts": 3, "pause": 0, "grace": 5, "out": "runs", **changes,
    }  # fmt: skip
    return Options(**{**texts, **numbers, **flags, **given})


def stub(folder: Path, name: str, code: str = "") -> Path:
    """Puts a program on a folder for PATH that writes down its words, then runs ``code``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"with open({str(folder / (name + '.jsonl'))!r}, 'a') as file:\n"
        f"    print(json.dumps(sys.argv[1:]), file=file)\n{code}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(folder: Path, name: str) -> list[list[str]]:
    """Returns the words of every call of a stand-in."""
    record = folder / f"{name}.jsonl"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def path_with(folder: Path) -> dict[str, str]:
    """Returns an environment in which stand-ins come first."""
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

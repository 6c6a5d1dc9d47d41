"""memjax launch --target={local,tpu-vm,gke-xpk,jobset,slurm,skypilot} --config=NAME --workdir=DIR
    [--dry-run] [flags of the target] [-- further flags of the launched command]

Trains somewhere else, or in several processes here: prints (--dry-run) or writes and runs what one
would type by hand. A stopped or preempted run is started again under the same run id and goes on
where it saved. What follows -- is passed on: -- --config.train.steps=1000. launch/README.md says
what each target needs, and what was tested.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from memjax.cli.flags import MOST
from memjax.runtime.files import write_bytes
from memjax.tools.launch.local import run_local
from memjax.tools.launch.options import JOBS, ONLY, PLATFORMS, TARGETS, Options, check, near
from memjax.tools.launch.plan import Plan, folder, log_folder, printed
from memjax.tools.launch.processes import Process
from memjax.tools.launch.targets import PLANS, local_process

_CHOICES = {
    "target": (None, TARGETS, "Where it runs."),
    "job": ("train", JOBS, "What is run; detect takes its own flags after --."),
    "platform": ("cpu", PLATFORMS, "What JAX runs on."),
}
_STRINGS = {
    "config": "Bundled name of a configuration, or its path on the machines that train.",
    "workdir": "Folder of the run, on storage that all machines see and that outlives them.",
    "run_id": "Name of the run (default: from configuration and folder, so always the same).",
    "install": "What pip installs there, by name or address (https://, git+https://), or none.",
    "setup": "Shell command before the training, such as mounting a share or loading a module.",
    "log_dir": "Folder of the logs (default: WORKDIR/logs; for tpu-vm beside its script).",
    "accelerator": "TPU slice, such as v5e-8, v5p-64, v6e-16; elsewhere a GPU, such as A100:1.",
    "tpu": "Name of the queued resource (default: the run id).",
    "zone": "Zone of Google Cloud.",
    "project": "Project of Google Cloud (default: gcloud's own).",
    "runtime_version": "TPU software version (default: the one for JAX on that slice).",
    "reservation": "Reservation to use.",
    "cluster": "Cluster that xpk made.",
    "namespace": "Namespace of Kubernetes.",
    "queue": "Local queue of Kueue.",
    "image": "Container image with Python 3.11 or newer (default: python:3.12 and --install).",
    "volume": "Claim (jobset), storage (xpk) or bucket (skypilot), and where: NAME:/mnt/runs.",
    "partition": "Partition of SLURM.",
    "account": "Account of SLURM.",
    "time": "Time limit of SLURM, such as 1-00:00:00.",
    "infra": "Where SkyPilot looks, such as gcp, aws/us-east-1 or k8s.",
}
_NUMBERS = {
    "max_restarts": (10, 0, "Restarts after a crash or exit code 75."),
    "pause": (10, 0, "Seconds before a restart."),
    "grace": (120, 1, "Seconds to save between SIGTERM and SIGKILL."),
    "processes": (1, 1, "Processes."),
    "devices_per_process": (1, 1, "CPU devices of each process."),
    "num_slices": (1, 1, "TPU slices."),
    "nodes": (1, 1, "Machines."),
    "gpus_per_node": (1, 0, "GPUs of each machine."),
}
_SWITCHES = {
    "dry_run": "Print what would be written and run; touch nothing.",
    "spot": "Take preemptible machines.",
    "reserved": "Take reserved capacity.",
}


def define_flags() -> flags.FlagValues:
    """Returns the flags, with their defaults."""
    values = flags.FlagValues()
    for name, (chosen, allowed, text) in _CHOICES.items():
        flags.DEFINE_enum(name, chosen, list(allowed), _help(name, text), flag_values=values)
    for name, text in _STRINGS.items():
        flags.DEFINE_string(name, "", _help(name, text), flag_values=values)
    flags.DEFINE_string("out", "runs", "Files go to OUT/launch/RUN_ID.", flag_values=values)
    for name, (number, low, text) in _NUMBERS.items():
        flags.DEFINE_integer(name, number, _help(name, text), low, MOST, flag_values=values)
    for name, text in _SWITCHES.items():
        flags.DEFINE_bool(name, False, _help(name, text), flag_values=values)
    return values


def _help(name: str, text: str) -> str:
    return f"{text} [{', '.join(ONLY[name])}]" if name in ONLY else text


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> tuple[str, ...]:
    """Reads a command line into flags, and returns what follows ``--``.

    Raises:
        ValueError: In the words of the flags' parser, or naming a word that is no flag.
    """
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    mine = [_with_underscores(word) for word in words[:cut]]
    try:
        rest = values(["memjax launch", *mine])[1:]
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if rest:
        raise ValueError(
            f"launch got {rest[0]!r}, expected flags only (--flag=value), and those of the "
            f"launched command after --.{near(rest[0], TARGETS)}"
        )
    return tuple(words[cut + 1 :])


def _with_underscores(word: str) -> str:
    """Turns ``--dry-run`` into ``--dry_run``, as one writes flags elsewhere."""
    name, equals, value = word.partition("=")
    spelled = re.fullmatch(r"--?[a-z]+(-[a-z]+)+", name)
    return f"--{name.lstrip('-').replace('-', '_')}{equals}{value}" if spelled else word


FLAGS = define_flags()
_TOOLS = {
    "gcloud": "install the Google Cloud CLI (cloud.google.com/sdk/docs/install)",
    "xpk": "pip install xpk",
    "kubectl": "install it (kubernetes.io/docs/tasks/tools)",
    "sbatch": "launch on a login node of the SLURM cluster",
    "sky": "pip install skypilot, with the extra of your cloud",
}
_NEEDED = {
    "tpu-vm": ("gcloud",),
    "gke-xpk": ("xpk", "gcloud", "kubectl"),
    "jobset": ("kubectl",),
    "slurm": ("sbatch",),
    "skypilot": ("sky",),
}
_passed: list[str] = []


def read(arguments: Sequence[str]) -> None:
    """Reads the flags; what follows ``--`` is kept for the launched command."""
    _passed[:] = parse(FLAGS, arguments)


def main() -> int:
    """Runs the command."""
    if FLAGS["target"].value is None:
        raise ValueError(f"--target must be given, expected one of {', '.join(TARGETS)}.")
    names = [name for name in Options._fields if name != "passed"]
    values: dict[str, Any] = {name: FLAGS[name].value for name in names}
    given = {name for name in values if FLAGS[name].present}
    options = check(Options(**values, passed=tuple(_passed)), given)
    plan = PLANS[options.target](options)
    if FLAGS["dry_run"].value:
        print(printed(plan, options))
        return 0
    if options.target == "local":
        return _local(options)
    return _submit(plan, options)


def _local(options: Options) -> int:
    def processes(port: str) -> list[Process]:
        made = (local_process(options, index, port) for index in range(options.processes))
        return [Process(words, environment) for environment, words in made]

    logs = Path(log_folder(options))
    print(f"memjax launch: {options.run_id}, logs in {logs}", file=sys.stderr, flush=True)
    return run_local(
        processes,
        logs,
        options.run_id,
        max_restarts=options.max_restarts,
        pause=options.pause,
        grace=options.grace,
    )


def _submit(plan: Plan, options: Options) -> int:
    """Writes the files, then runs the commands one after the other."""
    for tool in _NEEDED[options.target]:
        if shutil.which(tool) is None:
            raise ValueError(
                f"--target={options.target} needs {tool}, which is not on PATH: {_TOOLS[tool]}, or "
                f"look at the plan with --dry-run."
            )
    place = folder(options)
    for name, text in plan.files.items():
        print(f"written: {write_bytes(place / name, text.encode())}", file=sys.stderr)
    for note in plan.notes:
        print(f"memjax launch: {note}", file=sys.stderr)
    for words in plan.commands:
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"memjax launch: {words[0]} ended with exit code {code}.", file=sys.stderr)
            return code if code > 0 else 128 - code
    for words in plan.after:
        print(f"to watch or to stop it: {shlex.join(words)}", file=sys.stderr)
    return 0

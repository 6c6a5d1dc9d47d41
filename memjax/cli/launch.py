"""memjax launch --target={local,tpu-vm,gke-xpk,jobset,slurm,skypilot} --config=NAME --workdir=DIR
    [--dry-run] [flags of the target] [-- further flags of the launched command]

Trains somewhere else, or in several processes here: prints (--dry-run) or writes and runs what one
would type by hand. A stopped or preempted run is started again under the same run id and goes on
where it saved. What follows -- is passed on: -- --config.train.steps=1000. launch/README.md says
what each target needs, and what was tested.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memjax.cli.launch_flags import define_flags, parse
from memjax.runtime.files import write_bytes
from memjax.tools.launch.local import run_local
from memjax.tools.launch.options import TARGETS, Options, check
from memjax.tools.launch.plan import Plan, folder, log_folder, printed
from memjax.tools.launch.processes import Process
from memjax.tools.launch.targets import PLANS, local_process

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

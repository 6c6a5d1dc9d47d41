"""What a launch is asked for, checked before anything is written or run."""

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from memjax.runs.config import bundled_configs, find_config
from memjax.tools.launch.tpu_names import Slice, find_slice, is_tpu

TARGETS = ("local", "tpu-vm", "gke-xpk", "jobset", "slurm", "skypilot")
JOBS = ("train", "detect")
PLATFORMS = ("cpu", "cuda", "tpu")

# Flags that only some targets use; all others belong to every target.
ONLY: dict[str, tuple[str, ...]] = {
    "processes": ("local",),
    "devices_per_process": ("local",),
    "platform": ("local",),
    "accelerator": ("tpu-vm", "gke-xpk", "jobset", "skypilot"),
    "tpu": ("tpu-vm",),
    "zone": ("tpu-vm", "gke-xpk"),
    "project": ("tpu-vm", "gke-xpk"),
    "runtime_version": ("tpu-vm", "skypilot"),
    "reserved": ("tpu-vm",),
    "reservation": ("gke-xpk",),
    "spot": ("tpu-vm", "gke-xpk", "jobset", "skypilot"),
    "num_slices": ("tpu-vm", "gke-xpk", "jobset"),
    "cluster": ("gke-xpk",),
    "namespace": ("jobset",),
    "queue": ("jobset",),
    "image": ("gke-xpk", "jobset"),
    "volume": ("gke-xpk", "jobset", "skypilot"),
    "nodes": ("jobset", "slurm", "skypilot"),
    "gpus_per_node": ("jobset", "slurm"),
    "partition": ("slurm",),
    "account": ("slurm",),
    "time": ("slurm",),
    "infra": ("skypilot",),
    "install": ("tpu-vm", "gke-xpk", "jobset", "slurm", "skypilot"),
    "setup": ("tpu-vm", "gke-xpk", "jobset", "slurm", "skypilot"),
    "log_dir": ("local", "tpu-vm", "slurm"),
}
_NEEDS = {
    "tpu-vm": ("accelerator", "zone"),
    "gke-xpk": ("accelerator", "cluster"),
    "skypilot": ("accelerator",),
}
_LABEL = (re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?"), "a lower-case letter, then a-z, 0-9 and -")
_WORD = (re.compile(r"[A-Za-z0-9][\w.,:/@-]*", re.ASCII), "letters, digits and . , : / @ _ -")
_TIME = (re.compile(r"(\d+-)?\d+(:\d\d){0,2}", re.ASCII), "minutes or days-hours:minutes:seconds")
_PATTERNS = {
    **dict.fromkeys(("run_id", "tpu", "namespace", "queue"), _LABEL),
    **dict.fromkeys(("cluster", "image", "partition", "account", "reservation"), _WORD),
    **dict.fromkeys(("zone", "project", "runtime_version", "accelerator"), _WORD),
    "time": _TIME,
    "volume": (re.compile(r"[\w][\w.:/-]*:/[^\s:]*", re.ASCII), "SOURCE:/where/it/is/mounted"),
}
_FETCHED = re.compile(r"^[\w.-]+(\[[\w,.-]+\])?\s*($|[=<>!~]|@ )|://", re.ASCII)
_LONGEST = 40  # xpk allows no longer name, and a pod's name adds to it


class Options(NamedTuple):
    """The flags of ``memjax launch``, by name; ``passed`` is what follows ``--``."""

    target: str
    config: str
    workdir: str
    job: str
    run_id: str
    out: str
    install: str
    setup: str
    log_dir: str
    max_restarts: int
    pause: int
    grace: int
    processes: int
    devices_per_process: int
    platform: str
    accelerator: str
    tpu: str
    zone: str
    project: str
    runtime_version: str
    spot: bool
    reserved: bool
    reservation: str
    num_slices: int
    cluster: str
    namespace: str
    queue: str
    image: str
    volume: str
    nodes: int
    gpus_per_node: int
    partition: str
    account: str
    time: str
    infra: str
    passed: tuple[str, ...] = ()

    @property
    def slice(self) -> Slice | None:
        """The TPU slice; none where the accelerator is a GPU, or left to the target."""
        return find_slice(self.accelerator) if is_tpu(self.accelerator) else None


def default_run_id(config: str, workdir: str, job: str) -> str:
    """Returns a name that is the same whenever the same run is launched again.

    The configuration's name makes it readable, eight digits of a hash of configuration, folder and
    command make it this run's own.
    """
    stem = os.path.basename(config.partition(":")[0]).removesuffix(".py")
    plain = re.sub(r"[^a-z0-9]+", "-", (stem or job).lower()).strip("-")[: _LONGEST - 10]
    plain = plain if plain[:1].isalpha() else f"run-{plain}".strip("-")
    key = "\0".join((config, workdir.rstrip("/"), job)).encode(errors="surrogateescape")
    return f"{plain.rstrip('-')}-{hashlib.sha256(key).hexdigest()[:8]}"


def check(options: Options, given: Iterable[str]) -> Options:
    """Returns the options with a run id; refuses what cannot work.

    Args:
        options: The flags' values.
        given: Names of the flags that were on the command line.

    Raises:
        ValueError: One sentence: the value, what was expected, the way out.
    """
    target = options.target
    for name in sorted(given):
        if target not in ONLY.get(name, TARGETS):
            raise ValueError(
                f"--{name} means nothing to --target={target}, expected with "
                f"{', '.join(ONLY[name])}: leave it out or change the target."
            )
    _check_job(options)
    missing = [n for n in _NEEDS.get(target, ()) if not getattr(options, n)]
    if missing:
        names = " and ".join(f"--{n}" for n in missing)
        raise ValueError(f"--target={target} needs {names}: see memjax launch --help.")
    if not options.run_id:
        run_id = default_run_id(options.config, options.workdir, options.job)
        options = options._replace(run_id=run_id)
    _check_names(options._asdict())
    _check_hardware(options)
    return options


def _check_job(options: Options) -> None:
    if not options.workdir or (options.job == "train" and not options.config):
        raise ValueError(
            "launch needs --target, --config and --workdir, for example: "
            "memjax launch --target=local --config=phantoms_demo --workdir=runs/demo."
        )
    if "://" in options.workdir:
        raise ValueError(
            f"--workdir={options.workdir} is an address, expected a folder, as a run is written "
            f"into one: mount the bucket or a share there by --volume or --setup."
        )
    if options.job != "train" and options.config:
        raise ValueError(
            f"--job={options.job} takes no --config={options.config}, expected its own flags "
            f"after --, such as -- --model=runs/demo: leave --config out."
        )
    own = ("config", "workdir", "coordinator", "num_processes", "process_id", "distributed")
    for word in options.passed:
        name = word.lstrip("-").partition("=")[0]
        if name in (own if options.job == "train" else own[2:]) and word.startswith("-"):
            raise ValueError(
                f"{word} stands after --, expected from launch itself: give --config and "
                f"--workdir before --, and leave the processes to launch."
            )
    _check_config(options.config.partition(":")[0], options.target)


def _check_config(name: str, target: str) -> None:
    """Refuses a configuration that the machines of a target will not find."""
    if name and target in ("local", "slurm"):
        find_config(name)
    elif name and "/" not in name and name not in bundled_configs():
        raise ValueError(
            f"--config={name} is not on the machines of --target={target}, expected a path there "
            f"or one of {', '.join(bundled_configs())}.{near(name, bundled_configs())}"
        )


def _check_names(values: Mapping[str, object]) -> None:
    for name, (pattern, expected) in _PATTERNS.items():
        value = str(values[name])
        if value and not pattern.fullmatch(value):
            raise ValueError(f"--{name}={value!r} is no name it can have, expected {expected}.")
    for name in ("run_id", "tpu"):
        if len(str(values[name])) > _LONGEST:
            raise ValueError(
                f"--{name}={values[name]} is too long, expected {_LONGEST} letters at most."
            )


def _check_hardware(options: Options) -> None:
    target, accelerator = options.target, options.accelerator
    if options.spot and (options.reserved or options.reservation):
        raise ValueError("--spot and a reservation exclude each other, expected one: drop one.")
    if options.platform == "tpu" and options.processes > 1:
        raise ValueError(
            f"--processes={options.processes} with --platform=tpu cannot share the chips, expected "
            f"--processes=1: one process uses all chips of a machine."
        )
    if target in ("tpu-vm", "gke-xpk"):
        find_slice(accelerator)
    if target == "gke-xpk" and find_slice(accelerator).name in ("v5e-1", "v5e-4"):
        raise ValueError(
            f"--accelerator={accelerator} is not known to xpk, expected v5e-8 or more: use "
            f"--target=jobset or tpu-vm for it."
        )
    if target == "jobset" and options.num_slices > 1 and not options.slice:
        raise ValueError(
            f"--num_slices={options.num_slices} needs TPUs, expected --accelerator such as v5e-16: "
            f"use --nodes for GPUs."
        )
    if options.slice and options.nodes > 1:
        raise ValueError(
            f"--nodes={options.nodes} with --accelerator={accelerator} is ambiguous, expected "
            f"--num_slices: a slice brings its own machines."
        )
    local = options.install and not _FETCHED.search(options.install)
    if local and target != "slurm":
        raise ValueError(
            f"--install={options.install} is a file here, which machines of --target={target} do "
            f"not have, expected a package's name, or a git+https:// or https:// address of it."
        )


def near(word: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean …?`` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""

"""One function a target: options → :class:`~memjax.tools.launch.plan.Plan`.

Commands and fields are those of the tools' own documentation; each function says which.
"""

import os
import sys

from memjax.tools.launch.options import Options
from memjax.tools.launch.plan import (
    CACHE,
    COORDINATOR_PORT,
    Plan,
    cache_folder,
    folder,
    install_target,
    job_words,
    log_folder,
    render,
)
from memjax.tools.launch.quoting import for_kubernetes, join, quote
from memjax.tools.launch.tpu_names import find_slice

_DETECTS = ["--distributed=on"]
_IMAGE = "docker.io/library/python:3.12"


def local_process(options: Options, index: int, port: str) -> tuple[dict[str, str], list[str]]:
    """Returns environment and command of one process on this machine.

    Args:
        options: The launch.
        index: Which process.
        port: Where process 0 is met.
    """
    environment = {"JAX_PLATFORMS": options.platform, CACHE: cache_folder(options)}
    if options.platform == "cpu":
        environment["JAX_NUM_CPU_DEVICES"] = str(options.devices_per_process)
    elif options.processes > 1:
        mine = range(options.devices_per_process * index, options.devices_per_process * (index + 1))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
    processes = []
    if options.processes > 1:
        processes = [
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={options.processes}",
            f"--process_id={index}",
        ]
    words = job_words(options, processes)
    return environment, [sys.executable, "-m", *words]


def local(options: Options) -> Plan:
    """Processes on this machine, restarted together."""
    commands = []
    for index in range(options.processes):
        environment, words = local_process(options, index, "PORT")
        commands.append(["env", *(f"{k}={v}" for k, v in environment.items()), *words])
    notes = ["the processes run side by side"]
    if options.processes > 1:
        notes.append("PORT is a free port of this machine, another one at each start")
    notes.append(f"logs: {quote(log_folder(options))}/process-0.log and so on")
    return Plan({}, commands, [], notes)


def tpu_vm(options: Options) -> Plan:
    """A queued resource, ssh to all its workers, and a script that watches over them.

    From Cloud's reference of ``gcloud compute tpus queued-resources create, describe, delete, scp,
    ssh`` (flags, states; a preempted slice ends in SUSPENDED and must be deleted and asked for
    again). JAX finds the other workers by the machines' metadata.
    """
    found = find_slice(options.accelerator)
    tpu = options.tpu or options.run_id
    place = [f"--zone={options.zone}"]
    place += [f"--project={options.project}"] if options.project else []
    create = [
        f"--accelerator-type={found.type}",
        f"--runtime-version={options.runtime_version or found.runtime}",
    ]
    if options.num_slices > 1:
        create += [f"--node-count={options.num_slices}", f"--node-prefix={tpu}"]
    else:
        create += [f"--node-id={tpu}"]
    create += ["--spot"] if options.spot else []
    create += ["--reserved"] if options.reserved else []
    values = {"tpu": tpu, "place": place, "create": create, "install": install_target(options)}
    values |= {"command": job_words(options, _DETECTS)[1:]}
    files = {name: render(f"{name}.j2", options, **values) for name in ("tpu_vm.sh", "worker.sh")}
    base = ["gcloud", "compute", "tpus", "queued-resources"]
    log = f"tail --follow memjax-runs/{options.run_id}/train.log"
    after = [
        [*base, "ssh", tpu, *place, "--worker=0", f"--command={log}"],
        [*base, "delete", tpu, *place, "--force"],
    ]
    notes = [found.described(), "the slice costs money until it is deleted"]
    return Plan(files, [["bash", str(folder(options) / "tpu_vm.sh")]], after, notes)


def gke_xpk(options: Options) -> Plan:
    """A workload of xpk on a cluster that xpk made.

    From the parser and the templates of xpk 1.16: ``--command`` becomes one line of a container's
    command; a workload restarts on exit codes 42 and 127 to 255 and on those of
    ``--restart-on-exit-codes``, so all but 2 (a user's mistake) are named.
    """
    found = find_slice(options.accelerator)
    words = [
        "xpk", "workload", "create",
        f"--cluster={options.cluster}",
        f"--workload={options.run_id}",
        f"--tpu-type={found.type}",
        f"--num-slices={options.num_slices}",
        f"--docker-image={options.image or _IMAGE}",
        f"--max-restarts={options.max_restarts}",
        "--restart-on-exit-codes=1,3-126",
        f"--termination-grace-period-seconds={options.grace}",
    ]  # fmt: skip
    place = [f"--zone={options.zone}"] if options.zone else []
    place += [f"--project={options.project}"] if options.project else []
    words += place
    words += ["--spot"] if options.spot else []
    words += [f"--reservation={options.reservation}"] if options.reservation else []
    words += [f"--storage={options.volume.partition(':')[0]}"] if options.volume else []
    script = " && ".join(_container_lines(options, join(job_words(options, _DETECTS))))
    words.append(f"--command={for_kubernetes(script)}")
    name = f"--workload={options.run_id}"
    cluster = f"--cluster={options.cluster}"
    after = [
        ["xpk", "workload", "list", cluster, *place],
        ["kubectl", "logs", "--follow", f"job/{options.run_id}-slice-job-0"],
        ["xpk", "workload", "delete", cluster, name, *place],
    ]
    return Plan({}, [words], after, [found.described()])


def _container_lines(options: Options, command: str) -> list[str]:
    """Returns what a container runs; ``exec`` hands Kubernetes' SIGTERM to the training itself."""
    lines = [f"export {CACHE}={quote(cache_folder(options))}"]
    lines += [f"eval {quote(options.setup)}"] if options.setup else []
    if options.install != "none":
        lines.append(f"python3 -m pip install --quiet {quote(install_target(options))}")
    return [*lines, f"exec {command}"]


def jobset(options: Options) -> Plan:
    """A JobSet, queued by Kueue where ``--queue`` names a local queue.

    From JobSet's API (v1alpha2) and its examples of failure policies, and Kubernetes' pod failure
    policy: exit code 2 fails the Job with reason PodFailurePolicy, which fails the JobSet; every
    other failure restarts all of it, up to ``maxRestarts``. On TPUs GKE tells JAX the other
    machines; elsewhere the pods are told.
    """
    found = options.slice
    if found:
        command = join(job_words(options, _DETECTS))
    else:
        head = f"{options.run_id}-w-0-0.{options.run_id}:{COORDINATOR_PORT}"
        which = f"--coordinator={head} --num_processes={options.nodes}"
        command = f'{join(job_words(options))} {which} --process_id="$JOB_COMPLETION_INDEX"'
        command = command if options.nodes > 1 else join(job_words(options))
    lines = ["set -e", *_container_lines(options, command)]
    claim, _, mount = options.volume.partition(":")
    text = render(
        "jobset.yaml.j2",
        options,
        lines=lines,
        image=options.image or _IMAGE,
        parallelism=found.vms if found else options.nodes,
        claim=claim,
        mount=mount,
    )
    path = str(folder(options) / "jobset.yaml")
    where = [f"--namespace={options.namespace}"] if options.namespace else []
    after = [
        ["kubectl", "get", "jobset", options.run_id, *where],
        ["kubectl", "logs", "--follow", f"job/{options.run_id}-w-0", *where],
        ["kubectl", "delete", "jobset", options.run_id, *where],
    ]
    notes = [found.described()] if found else []
    return Plan({"jobset.yaml": text}, [["kubectl", "create", f"--filename={path}"]], after, notes)


def slurm(options: Options) -> Plan:
    """A batch job that asks to be queued again.

    From SLURM's manual of sbatch, srun, scancel and scontrol: ``--signal=B:USR1@SECONDS`` signals
    the batch shell alone, before the time limit; ``scancel --signal`` signals the steps alone;
    ``--requeue`` (after a preemption) and ``scontrol requeue`` start the same script again with
    ``SLURM_RESTART_COUNT`` one higher. It is USR1 because TERM also comes from scancel, and a job
    that its user cancels must not queue itself again. JAX finds the other tasks by SLURM's
    variables, one GPU a task.
    """
    values = {"command": job_words(options, _DETECTS), "install": install_target(options)}
    text = render("slurm.sbatch.j2", options, **values)
    logs = log_folder(options)
    output = f"--output={os.path.join(logs, '').replace('%', '%%')}%x-%j.log"
    path = str(folder(options) / "slurm.sbatch")
    commands = [["mkdir", "--parents", "--", logs], ["sbatch", output, path]]
    name = f"--name={options.run_id}"
    after = [["squeue", "--me", name], ["scancel", name]]
    return Plan({"slurm.sbatch": text}, commands, after, [])


def skypilot(options: Options) -> Plan:
    """A managed job of SkyPilot.

    From the task schema of SkyPilot 0.14 and its page on managed jobs: preemptions are always
    recovered; exit codes of ``recover_on_exit_codes`` restart without limit;
    ``max_restarts_on_errors`` counts all others. It cannot tell a user's mistake from a crash, so
    on one node the script itself restarts after a crash, and SkyPilot only after 75.
    """
    found = options.slice
    source, _, mount = options.volume.rpartition(":")
    text = render(
        "skypilot.yaml.j2",
        options,
        accelerator=f"tpu-{found.type}" if found else options.accelerator,
        runtime=options.runtime_version or (found.runtime if found else ""),
        command=job_words(options, _DETECTS if found else [])[1:],
        install=install_target(options),
        source=source,
        mount=mount,
        port=COORDINATOR_PORT,
        many=options.nodes > 1 or bool(found and not found.one_host),
    )
    path = str(folder(options) / "skypilot.yaml")
    name = f"--name={options.run_id}"
    after = [["sky", "jobs", verb, name] for verb in ("logs", "cancel")]
    commands = [["sky", "jobs", "launch", "--yes", "--detach-run", name, path]]
    return Plan({"skypilot.yaml": text}, commands, after, [found.described()] if found else [])


PLANS = {
    "local": local,
    "tpu-vm": tpu_vm,
    "gke-xpk": gke_xpk,
    "jobset": jobset,
    "slurm": slurm,
    "skypilot": skypilot,
}

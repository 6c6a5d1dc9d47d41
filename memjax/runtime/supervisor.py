"""Commands that run in several processes: their flags, and a parent that explains a sudden end.

JAX's runtime ends a process abruptly when another one is gone. Each process therefore runs under a
small parent, which reads what the runtime said last and turns it into one sentence and exit code
75, "start me again".
"""

import collections
import glob
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from memjax.runtime.interruption import RESTART_EXIT_CODE
from memjax.runtime.json import loads

COMMANDS = ("train", "sample", "detect", "mitigate")
SUPERVISED = "MEMJAX_SUPERVISED"
ROSTER = "MEMJAX_ROSTER"
MODES = ("auto", "on", "off")
_OTHERS_SPEAK = 3.0  # seconds in which processes with the same mistake say so themselves
HELP = (
    "  --coordinator=HOST:PORT --num_processes=N --process_id=I: this is process I of N; or\n"
    "  --distributed=on where TPU, SLURM or Kubernetes says so (auto, the default, looks; off\n"
    "  does not); --start_timeout=300, --host_timeout=60: seconds to wait for a host that is\n"
    "  missing at the start, silent later."
)


class ClusterFlags(NamedTuple):
    """What the command line says about other processes."""

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    distributed: str = "auto"
    start_timeout: int = 300
    host_timeout: int = 60


def split_flags(arguments: Sequence[str]) -> tuple[ClusterFlags, list[str]]:
    """Takes the flags of this module out of a command line.

    Raises:
        ValueError: If a value is no number, or some of the three are missing.
    """
    found: dict[str, str] = {}
    rest = []
    waiting = ""
    for argument in arguments:
        match = re.match(r"^--?(\w+)(?:=(.*))?$", argument, re.DOTALL)
        if waiting:
            found[waiting], waiting = argument, ""
        elif match and match[1] in ClusterFlags._fields:
            if match[2] is None:
                waiting = match[1]
            else:
                found[match[1]] = match[2]
        else:
            rest.append(argument)
    if waiting:
        raise ValueError(f"--{waiting} has no value: give one.")
    return _checked(found), rest


def _checked(found: dict[str, str]) -> ClusterFlags:
    values: dict[str, Any] = {}
    for name, text in found.items():
        wants_text = isinstance(ClusterFlags._field_defaults[name], str)
        if not wants_text and not text.isdecimal():
            raise ValueError(f"--{name}={text} is no number, expected a whole number.")
        values[name] = text if wants_text else int(text)
    flags = ClusterFlags(**values)
    if flags.distributed not in MODES:
        raise ValueError(f"--distributed={flags.distributed}, expected one of {', '.join(MODES)}.")
    for name in ("start_timeout", "host_timeout"):
        if getattr(flags, name) < 5:
            raise ValueError(f"--{name}={getattr(flags, name)}, expected at least 5 seconds.")
    three = ("coordinator", "num_processes", "process_id")
    missing = [f"--{name}" for name in three if name not in found]
    if 0 < len(missing) < len(three):
        given = [f"--{name}" for name in three if name in found]
        raise ValueError(
            f"{' and '.join(given)} came without {' and '.join(missing)}: give all three, or none."
        )
    return flags


def wanted(flags: ClusterFlags) -> str | None:
    """Returns what says that there are other processes, or None."""
    if flags.distributed == "off":
        return None
    if flags.coordinator:
        return "the flags"
    if flags.distributed == "on":
        return "--distributed=on"
    return surroundings()


def surroundings(environment: Mapping[str, str] | None = None) -> str | None:
    """Returns which cluster this process was started in (JAX knows the rest), or None.

    SLURM steps of several tasks, Kubernetes jobs with an index, TPU virtual machines.
    """
    env = os.environ if environment is None else environment
    if int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
        return "SLURM"
    if env.get("TPU_WORKER_HOSTNAMES", "").count(","):
        return "a TPU slice on Kubernetes"
    if "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env:
        return "Kubernetes"
    asked = env.get("JAX_PLATFORMS", "")
    if (not asked or "tpu" in asked) and (
        glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    ):
        return "a TPU virtual machine" if _has_libtpu() else None
    return None


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def join(flags: ClusterFlags, reason: str) -> None:
    """Joins the other processes (see :func:`memjax.runtime.hosts.start`), saying so."""
    from memjax.runtime import hosts

    where = f"process {flags.process_id} of {flags.num_processes}" if flags.coordinator else "here"
    print(
        f"memjax: several processes ({reason}), {where}: waiting up to {flags.start_timeout} s for "
        "the others; the same command must run on every host.",
        file=sys.stderr,
        flush=True,
    )
    hosts.start(
        hosts.Cluster(flags.coordinator, flags.num_processes, flags.process_id),
        start_seconds=flags.start_timeout,
        silence_seconds=flags.host_timeout,
    )
    hosts.hush()


def run_joined(
    command: Callable[[], int],
    explained: Callable[[Exception], int],
    flags: ClusterFlags,
    reason: str,
) -> int:
    """Joins the others, runs a command, and leaves at once where it failed.

    A process that failed does not wait for the others at the end, as JAX would: they are in the
    middle of a step that needs it.

    Args:
        command: What to run; returns the exit code.
        explained: Prints a sentence for an error and returns its exit code, or raises it again.
        flags: See :class:`ClusterFlags`.
        reason: What says that there are other processes.
    """
    try:
        join(flags, reason)
        code = command()
    except Exception as error:
        if _broken_off(error):
            _await_verdict(error, flags)
        try:
            code = explained(error)
        except Exception:
            traceback.print_exc()
            code = 1
    if code not in (0, RESTART_EXIT_CODE):
        time.sleep(_OTHERS_SPEAK)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _broken_off(error: Exception) -> bool:
    """Returns whether an error says that an exchange with another process failed."""
    said = str(error)
    return any(sign in said for sign in ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "NCCL"))


def _await_verdict(error: Exception, flags: ClusterFlags) -> None:
    """Waits for the runtime to end this process, which names the one that is gone."""
    first = str(error).strip().splitlines()[0][:200]
    print(
        f"memjax: an exchange with another process broke off ({first}): waiting up to "
        f"{flags.host_timeout} s to hear which one is gone.",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(flags.host_timeout + _OTHERS_SPEAK)
    print(
        "memjax: no process was found to be gone: look at the logs of the others, then start the "
        "same command on every host again; it goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(RESTART_EXIT_CODE)


def supervise(arguments: Sequence[str], flags: ClusterFlags) -> int:
    """Runs the command in a child, passes signals on, and explains an abrupt end.

    Returns:
        The child's exit code; 75 if it ended because another process was gone.
    """
    with tempfile.TemporaryDirectory() as folder:
        roster = Path(folder) / "hosts.json"
        env = {**os.environ, SUPERVISED: "1", ROSTER: str(roster)}
        code, said = _watched(_command(arguments), env)
        if code in (-signal.SIGABRT, 128 + signal.SIGABRT):
            print(f"memjax: {explain(said, _names(roster), flags)}", file=sys.stderr)
            return RESTART_EXIT_CODE
    return 128 - code if code < 0 else code


def _watched(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Runs a program; returns its exit code and the end of what it wrote to stderr."""
    tail: collections.deque[str] = collections.deque(maxlen=400)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as child:
        previous = _pass_signals(child)
        pipe = child.stderr
        assert pipe is not None
        reader = threading.Thread(target=_copy, args=(pipe, tail), daemon=True)
        reader.start()
        code = child.wait()
        reader.join(5.0)  # a grandchild may hold the pipe open
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code, "".join(tail)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "memjax", *arguments]


def _pass_signals(child: subprocess.Popen[bytes]) -> dict[signal.Signals, Any]:
    """Hands SIGTERM on to the child; returns what was there before."""

    def forward(number: int, frame: FrameType | None) -> None:
        if child.poll() is None:
            child.send_signal(number)

    def outlive(number: int, frame: FrameType | None) -> None:
        """From the keyboard the child has had it as well."""

    handlers = {signal.SIGTERM: forward, signal.SIGINT: outlive}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def _copy(pipe: IO[bytes], tail: collections.deque[str]) -> None:
    while chunk := os.read(pipe.fileno(), 65536):
        os.write(2, chunk)
        tail.append(chunk.decode(errors="replace"))


def _names(roster: Path) -> list[str]:
    try:
        return [str(name) for name in loads(roster.read_bytes())]
    except (OSError, ValueError):
        return []


def explain(said: str, names: Sequence[str], flags: ClusterFlags) -> str:
    """Returns one sentence on why the runtime ended a process.

    Args:
        said: The end of its stderr.
        names: Hosts by process, if known.
        flags: What this process was started with.
    """
    if absent := _listed(said, r"timed out task names:\n((?:\d+\s*\n)+)"):
        return (
            f"{_who(absent, names)} did not start within {flags.start_timeout} s: start "
            "the same command on every host (--worker=all), this one too."
        )
    if "CoordinationService/RegisterTask" in said:
        where = f" at {flags.coordinator}" if flags.coordinator else ""
        return (
            f"process 0 was not to be reached{where} within {flags.start_timeout} s: start the "
            "same command on every host (--worker=all), and check the address and the firewall."
        )
    if silent := _listed(said, r"stopped sending heartbeats\):\s*\n((?:\d+\s*\n)+)"):
        return (
            f"{_who(silent, names)} stopped answering, so this process ends too: look at its log, "
            "then start the same command on every host again; it goes on from the last checkpoint."
        )
    if "Failed to send RPC to coordination service" in said or "Socket closed" in said:
        return (
            f"{_who([0], names)}, which coordinates the run, is gone, so this process ends too: "
            "look at its log, then start the same command on every host again; it goes on from the "
            "last checkpoint."
        )
    return (
        "the JAX runtime ended this process (its last words are above): look at the logs of the "
        "other processes, then start the same command on every host again."
    )


def _listed(said: str, pattern: str) -> list[int]:
    found = re.findall(pattern, said)
    return [int(number) for number in found[-1].split()] if found else []


def _who(numbers: Sequence[int], names: Sequence[str]) -> str:
    shown = [f"{n} ({names[n]})" if n < len(names) else str(n) for n in numbers[:8]]
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(shown)}{more}"

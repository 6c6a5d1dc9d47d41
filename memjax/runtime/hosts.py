"""Many hosts: JAX's own runtime started once, what the processes agree on, their signs of life.

One process a host (or several on one machine) runs the same command. The first one, process 0,
coordinates, and alone writes files that are not checkpoints.
"""

import contextlib
import functools
import ipaddress
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memjax.runtime.json import write_json

ROSTER = "MEMJAX_ROSTER"  # a file to which each process writes the names of all hosts
START_SECONDS = 300
SILENCE_SECONDS = 60
_NAME_BYTES = 64
HEARTBEAT_FOLDER = "heartbeat"
HEARTBEAT_SECONDS = 10.0  # seconds


class Cluster(NamedTuple):
    """Who coordinates, and which of how many processes this one is.

    Attributes:
        coordinator: ``host:port`` of process 0; empty: JAX finds all three by itself.
        num_processes: Processes in all.
        process_id: This one, from 0.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1


def start(
    cluster: Cluster,
    *,
    start_seconds: int = START_SECONDS,
    silence_seconds: int = SILENCE_SECONDS,
) -> None:
    """Joins the other processes; does nothing where that has happened already.

    Must run before any array exists. If another process does not come within ``start_seconds``,
    or is silent for ``silence_seconds`` later on, the runtime ends this one.

    Args:
        cluster: See :class:`Cluster`.
        start_seconds: How long to wait for the others at the start.
        silence_seconds: How long a process may be silent before the others end.

    Raises:
        ValueError: If the numbers do not fit together, or this process cannot join.
    """
    if jax.distributed.is_initialized():
        return
    arguments: dict[str, Any] = {}
    if cluster.coordinator:
        _check(cluster)
        arguments = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.num_processes,
            "process_id": cluster.process_id,
        }
    if _is_loopback(cluster.coordinator):  # JAX would listen on every interface of the machine
        arguments["coordinator_bind_address"] = cluster.coordinator
        _exchange_at(cluster.coordinator.rpartition(":")[0].strip("[]"))
    try:
        with _named_absentees(start_seconds):
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=start_seconds + 30,
                heartbeat_timeout_seconds=silence_seconds,
                shutdown_timeout_seconds=silence_seconds,
            )
    except (RuntimeError, ValueError) as error:
        raise ValueError(_not_started(cluster, str(error))) from error
    _write_roster()


def _check(cluster: Cluster) -> None:
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"--coordinator={cluster.coordinator} is no address, expected HOST:PORT of process 0."
        )
    if cluster.num_processes < 1 or not 0 <= cluster.process_id < cluster.num_processes:
        raise ValueError(
            f"--process_id={cluster.process_id} of --num_processes={cluster.num_processes} cannot "
            "be: number the processes from 0, and give all of them the same --num_processes."
        )


def _is_loopback(coordinator: str) -> bool:
    """Returns whether an address is one of this machine's that no other machine can reach."""
    host = coordinator.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _exchange_at(host: str) -> None:
    """Lets the exchange between CPUs listen on an address; JAX takes that of the host's name.

    JAX has no public argument for it; where its runtime has changed, it is left as it is.
    """
    from jax._src import xla_bridge

    runtime: Any = getattr(xla_bridge, "_jax", None)
    make = getattr(runtime, "make_gloo_tcp_collectives", None)
    if make is not None:
        runtime.make_gloo_tcp_collectives = functools.partial(make, hostname=host)


def _not_started(cluster: Cluster, said: str) -> str:
    if not cluster.coordinator:
        return (
            f"the other hosts could not be found ({said.splitlines()[0]}): start the same command "
            "on every host, or give --coordinator, --num_processes and --process_id."
        )
    if cluster.process_id == 0:
        return (
            f"process 0 could not gather {cluster.num_processes} processes at "
            f"{cluster.coordinator} ({said.splitlines()[0]}): start the same command on every host "
            "(--worker=all), or choose a free port."
        )
    return (
        f"process {cluster.process_id} could not reach process 0 at {cluster.coordinator}: start "
        "the same command on every host (--worker=all), and check the address and the firewall."
    )


@contextlib.contextmanager
def _named_absentees(seconds: int) -> Iterator[None]:
    """Lets the coordinator give up before its clients do: it alone knows who is missing.

    JAX's public start has no argument for that; where the runtime's own has changed, it is left
    as it is, and the message names nobody.
    """
    from jax._src import distributed

    runtime: Any = getattr(distributed, "_jax", None)
    make = getattr(runtime, "get_distributed_runtime_service", None)
    if make is None:
        yield
        return

    def patient(*positional: Any, **named: Any) -> Any:
        try:
            return make(*positional, cluster_register_timeout=seconds, **named)
        except TypeError:
            return make(*positional, **named)

    runtime.get_distributed_runtime_service = patient
    try:
        yield
    finally:
        runtime.get_distributed_runtime_service = make


def _write_roster() -> None:
    """Writes the hosts' names where a supervisor asked for them."""
    names = host_names()
    path = os.environ.get(ROSTER)
    if path:
        with open(path, "w") as file:
            json.dump(names, file)


def host_names() -> list[str]:
    """Returns the name of every process's host, by process."""
    mine = socket.gethostname().encode()[:_NAME_BYTES]
    padded = np.zeros(_NAME_BYTES, np.uint8)
    padded[: len(mine)] = np.frombuffer(mine, np.uint8)
    rows = gather(padded)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]


def is_first() -> bool:
    """Returns whether this process writes the files."""
    return jax.process_index() == 0


def gather(value: Any) -> np.ndarray:
    """Returns every process's value, stacked; all processes must call it."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return np.asarray(value)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def agreed(value: int) -> int:
    """Returns process 0's number in every process."""
    return int(gather(np.int32(value))[0])


def barrier(name: str) -> None:
    """Waits for all processes."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """Lets process 0 do what is inside before the others do it, on what it left behind.

    .. note:: If it fails in process 0, the others are let go and find out for themselves.
    """
    if not is_first():
        barrier(name)
    try:
        yield
    finally:
        if is_first():
            barrier(name)


def hush() -> None:
    """Silences what processes other than the first print; what they say on stderr stays."""
    if jax.process_count() > 1 and not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends


class Heartbeat:
    """Writes ``heartbeat/process-<i>.json`` now and then; a file that grows old is a stuck host."""

    def __init__(self, workdir: str | os.PathLike[str], interval: float = HEARTBEAT_SECONDS):
        self._file = Path(workdir) / HEARTBEAT_FOLDER / f"process-{jax.process_index()}.json"
        self._interval = interval
        self._last = -float("inf")

    def beat(self, step: int, *, force: bool = False) -> None:
        """Writes the file if the last time is long enough ago."""
        now = time.monotonic()
        if not force and now - self._last < self._interval:
            return
        self._last = now
        record = {
            "step": step,
            "time": round(time.time(), 3),
            "process": jax.process_index(),
            "processes": jax.process_count(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        write_json(self._file, record, indent=None)

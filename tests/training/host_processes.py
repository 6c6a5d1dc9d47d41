"""Starting several real processes that train together on this machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
WORKER = pathlib.Path(__file__).parent / "hosts_worker.py"
# Most of these processes' time is compiling, so it is done less well.
QUICKLY = {"XLA_FLAGS": "--xla_backend_optimization_level=1"}


def prompts():
    """Yields a hundred prompts as lines."""
    for i in range(100):
        labels = {"Cardiomegaly": ("positive", "negative")[i % 2], "view": "AP", "age": 20 + i % 60}
        yield json.dumps({"id": f"p{i}", "labels": labels}) + "\n"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(devices, cache=None, **extra):
    """Returns what a process of so many devices is started with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    stored = {} if cache is None else {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **kept,
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        **stored,
        **extra,
    }


def start(argv, folder, name, devices=1, **extra):
    """Starts one process; what it prints goes to ``folder/name.log``."""
    with open(folder / f"{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, *map(str, argv)],
            env=environment(devices, **extra),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(processes, folder, seconds=900):
    """Waits for all; returns their exit codes and what they printed."""
    try:
        codes = {name: process.wait(timeout=seconds) for name, process in processes.items()}
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    return codes, {name: (folder / f"{name}.log").read_text() for name in processes}


def run_commands(commands, folder, name, processes=1, devices=1, **extra):
    """Runs memjax commands, one after the other, in so many processes; all must succeed."""
    listed, port = folder / f"{name}.json", free_port()
    listed.write_text(json.dumps(commands))
    started = {
        f"{name}-{number}": start(
            [WORKER, port, processes, number, listed], folder, f"{name}-{number}", devices, **extra
        )
        for number in range(processes)
    }
    codes, said = finish(started, folder)
    assert set(codes.values()) == {0}, (codes, {k: text[-3000:] for k, text in said.items()})
    return said

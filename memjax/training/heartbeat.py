"""A sign of life on disk: which step each process is at, and since when."""

import json
import os
import socket
import time
from pathlib import Path

import jax

from memjax.runtime.files import write_bytes

FOLDER = "heartbeat"
INTERVAL = 10.0  # seconds


class Heartbeat:
    """Writes ``heartbeat/process-<i>.json`` now and then; a file that grows old is a stuck host."""

    def __init__(self, workdir: str | os.PathLike[str], interval: float = INTERVAL):
        self._file = Path(workdir) / FOLDER / f"process-{jax.process_index()}.json"
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
        write_bytes(self._file, (json.dumps(record) + "\n").encode())

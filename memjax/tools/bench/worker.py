"""A process of its own for one side of a measurement: its allocator, its memory, its threads.

The parent calls the sides in turn, so that only one of them computes at a time.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memjax.runtime.allocator import keep_freed_memory
from memjax.tools.bench.timing import Times

KEEP, DEFAULT = "keep", "default"


class Worker:
    """Holds what ``make(*arguments)`` returns in a fresh process and calls its methods.

    Use as a context manager: the process ends with it, and its memory is free.

    Args:
        name: For messages.
        allocator: ``keep`` (glibc keeps freed memory) or ``default`` (its own settings).
        make: Importable function or class that builds the side.
        *arguments: What it is given; they are pickled.

    Raises:
        ValueError: The side could not be built.
    """

    def __init__(self, name: str, allocator: str, make: Callable[..., Any], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, allocator, make, arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self.kept: bool = self._exchange()[0]
        except ValueError:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> tuple[Any, Times]:
        """Returns what the side's method returns, and its wall and processor time.

        Raises:
            ValueError: The method failed, or the process died.
        """
        return self._exchange((method, arguments))

    def _exchange(self, request: Any = None) -> Any:
        try:
            if request is not None:
                self._pipe.send(request)
            done, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(10.0)
            raise ValueError(
                f"the {self.name} process ended with exit code {self._process.exitcode} (-9: out "
                "of memory); free memory or measure less at once (--only, --generations, --chunk)."
            ) from error
        if not done:
            raise ValueError(f"the {self.name} side failed: {value}")
        return value

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10.0)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Any, allocator: str, make: Callable[..., Any], arguments: tuple) -> None:
    """Builds the side, then answers calls until the parent hangs up."""
    kept = allocator == KEEP and keep_freed_memory()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two sides share one GPU
    try:
        side = make(*arguments)
        pipe.send((True, (kept, None)))
        while True:
            method, given = pipe.recv()
            began, began_cpu = time.perf_counter(), time.process_time()
            value = getattr(side, method)(*given)
            times = Times(time.perf_counter() - began, time.process_time() - began_cpu)
            pipe.send((True, (value, times)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def peak_host_bytes() -> int | None:
    """Returns the most resident memory this process has held, or None where it is unknown."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = [s.split()[1] for s in status.read_text().splitlines() if s.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None

"""What every report of ``memjax bench`` says about itself, and how it is written as JSON."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memjax.runtime.cores import usable_cores
from memjax.runtime.json import write_json
from memjax.tools.bench.timing import bench_versions, machine


def introduce() -> dict[str, Any]:
    """Prints the machine and returns the facts of it."""
    facts = machine()
    print(f"{facts['processor']}, {facts['platform']}: {usable_cores()} threads on each side")
    return facts


def finish(
    kind: str,
    size: str,
    report: Mapping[str, Any],
    *,
    command: str,
    facts: Mapping[str, Any],
    out: str | None,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Adds size, command, date, machine and versions to a report; writes it where asked.

    Args:
        kind: ``model``, ``sd`` or ``knn``.
        size: For the heading of its table.
        report: The figures.
        command: What to type to measure again.
        facts: Of :func:`introduce`.
        out: JSON file, or None.
        versions: Of further libraries.
    """
    report = {
        **report,
        "kind": kind,
        "size": size,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": dict(facts),
        "threads": {"memjax": usable_cores(), "torch": usable_cores()},
        "versions": bench_versions() | dict(versions or {}),
    }
    if out:
        print(f"\nall times: {write_json(out, report, sort_keys=True)}")
    return report


def command_of(arguments: Sequence[str]) -> str:
    """Returns the command line that measures the same, without places of the user's files.

    Args:
        arguments: What was typed after ``memjax bench``.
    """
    words, skip = ["memjax", "bench"], False
    for argument in arguments:
        flag, is_whole, value = argument.partition("=")
        if skip:
            skip = False
        elif flag.lstrip("-") in ("out", "table"):
            skip = not is_whole
        else:
            words.append(f"{flag}={Path(value).name}" if is_whole else Path(flag).name)
    return shlex.join(words)

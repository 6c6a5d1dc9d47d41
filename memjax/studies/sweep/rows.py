"""``sweep.jsonl``: one row per arm and seed; a row that is there already is not measured again."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memjax.runtime.files import write_bytes
from memjax.runtime.json import BadLine, bad_lines, dumps, keep_aside, read_lines, text_bytes
from memjax.studies.sweep.plan import Arm, identity

logger = logging.getLogger(__name__)
FILE = "sweep.jsonl"


def digest(arm: Arm, measure: Mapping[str, Any]) -> str:
    """Returns what decides a row: training, checkpoint, sampling, audit and measurement."""
    audit = dict(arm.config["audit"])
    options = {k: v for k, v in audit["options"].items() if k != "survey"}  # an audit's alone
    if not options.get("detectors"):  # rows of version 0.1 have no such field
        options.pop("detectors", None)
    audit |= {"options": options}
    audit["prompts"] = {k: v for k, v in audit["prompts"].items() if k != "loudest"}
    parts = [identity(arm.config), arm.step, arm.config["sampling"], audit]
    text = dumps([*parts, dict(measure)], sort_keys=True, ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Reads the rows there are; a line that is none is left out, and the log names it."""
    rows, bad = _read(workdir / FILE)
    if bad:
        logger.warning("%s; its row is measured anew.", bad_lines(workdir / FILE, bad))
    return rows


def _read(file: Path) -> tuple[list[dict[str, Any]], list[BadLine]]:
    return read_lines(file, _is_row)


def _is_row(row: Mapping[str, Any]) -> bool:
    whole = isinstance(row.get("key"), str) and isinstance(row.get("seed"), int)
    return whole and isinstance(row.get("metrics"), dict)


def put_row(workdir: Path, row: Mapping[str, Any]) -> None:
    """Adds a row, in place of an older one of the same arm and seed; the file appears whole."""
    rows, bad = _read(workdir / FILE)
    keep_aside(workdir / FILE, bad)
    same = (row["key"], row["seed"])
    kept = [r for r in rows if (r["key"], r["seed"]) != same]
    text = "".join(dumps(r, sort_keys=True) + "\n" for r in [*kept, row])
    write_bytes(workdir / FILE, text_bytes(text))


def find_row(
    rows: list[dict[str, Any]], arm: Arm, measure: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the row of an arm as it is planned now, if it was measured."""
    wanted = digest(arm, measure)
    for row in rows:
        if (row["key"], row["seed"]) == (arm.key, arm.seed) and row.get("digest") == wanted:
            return row
    return None

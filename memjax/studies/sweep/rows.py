"""``sweep.jsonl``: one row per arm and seed; a row that is there already is not measured again."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memjax.runtime.files import write_bytes
from memjax.studies.sweep.plan import Arm, identity

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
    text = json.dumps([*parts, dict(measure)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Reads the rows there are.

    Raises:
        ValueError: If a line is no row, naming the line.
    """
    file = workdir / FILE
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "seed": int(row["seed"]), "metrics": dict(row["metrics"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} line {number} is no row of a sweep ({error}): restore the file, or "
                "remove the line and start the sweep again, which measures it anew."
            ) from error
    return rows


def put_row(workdir: Path, row: Mapping[str, Any]) -> None:
    """Adds a row, in place of an older one of the same arm and seed; the file appears whole."""
    same = (row["key"], row["seed"])
    rows = [r for r in read_rows(workdir) if (r["key"], r["seed"]) != same]
    text = "".join(json.dumps(r, sort_keys=True) + "\n" for r in [*rows, row])
    write_bytes(workdir / FILE, text.encode())


def find_row(
    rows: list[dict[str, Any]], arm: Arm, measure: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the row of an arm as it is planned now, if it was measured."""
    wanted = digest(arm, measure)
    for row in rows:
        if (row["key"], row["seed"]) == (arm.key, arm.seed) and row.get("digest") == wanted:
            return row
    return None

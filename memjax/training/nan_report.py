"""What is known when a run gives up: steps, rows and norms, in ``nan_report.json``."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from memjax.core.mesh import fetch
from memjax.runtime.files import write_bytes
from memjax.training.state import TrainState

FILE = "nan_report.json"


def write_nan_report(
    workdir: str | os.PathLike[str], bad: Sequence[Mapping[str, Any]], state: TrainState, batch: Any
) -> Path:
    """Writes what the last, non-finite steps have in common; all processes must call it.

    Args:
        workdir: The run's folder.
        bad: The steps in a row that were skipped: ``step``, ``loss``, ``grad_norm``, ``rows``.
        state: The state; its weights are those before the first of them.
        batch: The newest batch.
    """
    norms = {name: getattr(state, name) for name in ("params", "ema_params")}
    report = {
        "steps": [_plain(entry) for entry in bad],
        "rows_in_all_steps": _common_rows(bad),
        "norms": {name: _norms(tree) for name, tree in norms.items()},
        "updates": int(state.updates),
        "total_skipped": int(state.total_skipped),
        "last_batch": _of_batch(batch),
    }
    path = Path(workdir) / FILE
    if jax.process_index() == 0:
        write_bytes(path, (json.dumps(report, indent=1) + "\n").encode())
    return path


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    def value(v: Any) -> Any:
        if isinstance(v, float):
            return v if np.isfinite(v) else str(v)
        return v

    return {name: value(v) for name, v in entry.items()}


def _common_rows(bad: Sequence[Mapping[str, Any]]) -> list[int]:
    sets = [set(entry["rows"]) for entry in bad if entry.get("rows")]
    return sorted(set.intersection(*sets)) if sets else []


def _norms(tree: Any) -> dict[str, float]:
    """Returns the l2 norm of the tree and of its parts, two names deep."""
    found = {"all": float(optax.tree.norm(tree))}
    parts = [((name,), part) for name, part in tree.items()] if isinstance(tree, Mapping) else []
    for names, part in parts:
        deeper = part.items() if isinstance(part, Mapping) else ()
        for name, inner in deeper:
            found["/".join((*names, name))] = float(optax.tree.norm(inner))
    return found


def _of_batch(batch: Any) -> list[dict[str, Any]]:
    """Returns one entry a picture: its row, range, and how many values are not finite."""
    pictures = fetch(getattr(batch, "image", getattr(batch, "moments", None)))
    rows = fetch(batch.row)
    if pictures is None:
        return [{"row": int(row)} for row in rows]
    entries = []
    for row, picture in zip(rows, np.asarray(pictures, np.float64), strict=True):
        finite = picture[np.isfinite(picture)]
        entries.append(
            {
                "row": int(row),
                "not_finite": int(picture.size - finite.size),
                "least": float(finite.min()) if finite.size else None,
                "most": float(finite.max()) if finite.size else None,
                "mean": float(finite.mean()) if finite.size else None,
            }
        )
    return entries

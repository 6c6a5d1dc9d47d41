"""The numbers behind each figure as columns, for the CSV file that stands beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.evaluate.roc import roc_curve
from memjax.evaluate.walls import wall_order
from memjax.report.charts.dot_plot import Panel

Columns = dict[str, list[Any]]


def scatter_table(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_name: str = "magnitude (RMS)",
    y_name: str = "similarity (higher = more alike)",
) -> Columns:
    """Returns one row a picture: group, x, y; of :func:`~memjax.report.charts.scatter`'s groups."""
    out: Columns = {"group": [], x_name: [], y_name: []}
    for name, (x, y) in groups.items():
        a, b = _flat(x), _flat(y)
        out["group"] += [name] * len(a)
        out[x_name] += a
        out[y_name] += b
    return out


def paired_table(
    before: ArrayLike, after: ArrayLike, names: Sequence[str], value: str = "similarity"
) -> Columns:
    """Returns one row a prompt: its text, the value before and after."""
    return {
        "prompt": list(names),
        f"{value} before": _flat(before),
        f"{value} after": _flat(after),
    }


def wall_table(
    captions: Sequence[str],
    similarity: ArrayLike,
    copies: Sequence[bool] | None = None,
    training_row: ArrayLike | None = None,
) -> Columns:
    """Returns one row a column of the wall, in the order it is drawn."""
    order = wall_order(np.asarray(similarity))
    values = _flat(similarity)
    out: Columns = {
        "place": list(range(1, len(order) + 1)),
        "prompt": [captions[i] for i in order],
        "similarity (higher = more alike)": [values[i] for i in order],
    }
    if copies is not None:
        out["copy"] = [bool(copies[i]) for i in order]
    if training_row is not None:
        rows = np.asarray(training_row).ravel()
        out["nearest training picture (row)"] = [int(rows[i]) for i in order]
    return out


def families_table(families: Sequence[Mapping[str, Any]]) -> Columns:
    """Returns one row a family of other prompts."""
    keys = ("num", "auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "tpr_low", "tpr_high")
    heads = {"num": "prompts", "tpr_at_1pct_fpr": "found at 1 % false alarms (share)"}
    out: Columns = {"family": [str(f.get("name", "")) for f in families]}
    for key in keys:
        out[heads.get(key, key)] = [f.get(key) for f in families]
    return out


def magnitude_table(
    groups: Mapping[str, Float[np.ndarray, "prompts steps"]], value: str = "magnitude (RMS)"
) -> Columns:
    """Returns one row a prompt and step (steps count from 1, the first is pure noise)."""
    out: Columns = {"group": [], "prompt (number)": [], "step": [], value: []}
    for name, values in groups.items():
        table = np.asarray(values)
        rows, steps = np.indices(table.shape) + 1
        out["group"] += [name] * table.size
        out["prompt (number)"] += _flat(rows)
        out["step"] += _flat(steps)
        out[value] += _flat(table)
    return out


def roc_table(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Columns:
    """Returns one row an operating point of each curve."""
    false, found = "false alarms (share)", "memorised found (share)"
    out: Columns = {"curve": [], "threshold": [], false: [], found: []}
    for name, pair in curves.items():
        points = roc_curve(*pair)
        out["curve"] += [name] * len(points.fpr)
        out["threshold"] += _flat(points.thresholds)
        out[false] += _flat(points.fpr)
        out[found] += _flat(points.tpr)
    return out


def histogram_table(groups: Mapping[str, ArrayLike], value: str = "calibrated distance") -> Columns:
    """Returns one row a picture: group, value."""
    out: Columns = {"group": [], value: []}
    for name, values in groups.items():
        flat = _flat(values)
        out["group"] += [name] * len(flat)
        out[value] += flat
    return out


def token_table(names: Sequence[str], values: ArrayLike) -> Columns:
    """Returns one row a part of the prompt: name, significance, share of the total."""
    v = np.asarray(values, np.float64).ravel()
    total = float(v.sum())
    share = v / total if total > 0 else v
    return {"part of the prompt": list(names), "significance": _flat(v), "share": _flat(share)}


def dots_table(panels: Mapping[str, Panel], seeds: Sequence[str] = ()) -> Columns:
    """Returns one row a dot of :func:`~memjax.report.charts.dot_plot.dot_panels`."""
    out: Columns = {k: [] for k in ("quantity", "arm", "seed", "value", "low", "high")}
    for label, panel in panels.items():
        for arm, estimates in panel.items():
            for place, estimate in enumerate(estimates):
                seed = seeds[place] if place < len(seeds) else place
                row = (label, arm, seed, estimate.value, estimate.low, estimate.high)
                for column, cell in zip(out.values(), row, strict=True):
                    column.append(cell)
    return out


def _flat(values: ArrayLike) -> list[Any]:
    return np.asarray(values).ravel().tolist()

"""The rows of a sweep put in order: arms, seeds, estimates, means over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.evaluate.statistics.bootstrap import Estimate

Row = Mapping[str, Any]


class SweepArm(NamedTuple):
    """One arm: its name, its place on the factor's axis, and its row of each seed."""

    name: str
    key: str
    value: Any
    rows: Mapping[int, Row]


class Summary(NamedTuple):
    """A metric of one arm over its seeds: mean, smallest, largest, how many."""

    mean: float
    least: float
    most: float
    seeds: int


def arms_of(rows: Sequence[Row]) -> list[SweepArm]:
    """Returns the arms in the sweep's order; of two rows of one arm and seed the later counts."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        key = str(row.get("key") or row.get("arm"))
        found.setdefault(key, {})[int(row.get("seed") or 0)] = row
    arms = []
    for key, of_seed in found.items():
        first = next(iter(of_seed.values()))
        arms.append(SweepArm(str(first.get("arm") or key), key, first.get("value"), of_seed))
    arms.sort(key=_order)
    names = [arm.name for arm in arms]
    return [
        arm if names.count(arm.name) == 1 else arm._replace(name=f"{arm.name} ({arm.key})")
        for arm in arms
    ]


def _order(arm: SweepArm) -> float:
    order = next(iter(arm.rows.values())).get("order")
    number = order if order is not None else arm.value
    return float(number) if isinstance(number, (int, float)) else math.inf


def seeds_of(arms: Sequence[SweepArm]) -> list[int]:
    """Returns every seed that has a row."""
    return sorted({seed for arm in arms for seed in arm.rows})


def estimate(row: Row | None, metric: str) -> Estimate:
    """Returns one metric of a row; an unknown one where it was not measured."""
    found = ((row or {}).get("metrics") or {}).get(metric)
    if isinstance(found, Mapping):
        return Estimate(*(_number(found.get(key)) for key in ("value", "low", "high")))
    return Estimate(_number(found))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if math.isfinite(value) else None


def summary_of(arm: SweepArm, metric: str) -> Summary | None:
    """Returns the metric over the arm's seeds, or None where no seed has it."""
    found = [estimate(row, metric).value for row in arm.rows.values()]
    known = [value for value in found if value is not None]
    if not known:
        return None
    return Summary(float(np.mean(known)), min(known), max(known), len(known))


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Returns the names of all metrics, in order of appearance."""
    return list(dict.fromkeys(str(m) for row in rows for m in (row.get("metrics") or {})))


def measured(arms: Sequence[SweepArm], metric: str) -> bool:
    """Whether at least one arm has the metric."""
    return any(summary_of(arm, metric) is not None for arm in arms)


def long_table(arms: Sequence[SweepArm]) -> dict[str, list[Any]]:
    """Returns ``sweep.csv``: one row an arm, seed and metric."""
    names = ("arm", "seed", "factor", "value", "metric", "figure", "low", "high")
    out: dict[str, list[Any]] = {name: [] for name in names}
    for arm in arms:
        for seed, row in sorted(arm.rows.items()):
            for metric in metrics_of([row]):
                got = estimate(row, metric)
                cells = (arm.name, seed, row.get("factor"), arm.value, metric, *got)
                for name, cell in zip(names, cells, strict=True):
                    out[name].append(cell)
    return out


def metric_table(arms: Sequence[SweepArm], metrics: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the dots of one figure: one row an arm, seed and drawn metric."""
    table = long_table(arms)
    keep = [i for i, metric in enumerate(table["metric"]) if metric in metrics]
    return {name: [column[i] for i in keep] for name, column in table.items()}

"""What a sweep was expected to show, checked against its rows and said plainly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]


def check_expectations(
    expectations: Sequence[Mapping[str, Any]], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Returns each expectation with ``holds`` and ``because``.

    A comparison holds if it does in every seed, fails if the mean over seeds contradicts it, and
    is undecided (None) otherwise, or where a row is missing. A trend is Spearman's correlation of
    the factor with the metric, seed by seed, in the same way.

    Args:
        expectations: ``text``, ``metric``, and either ``arms`` (two keys, the first expected above
            the second) or ``trend`` (``rises`` or ``falls``).
        rows: Of ``sweep.jsonl``.
    """
    return [{"text": e["text"], **_checked(e, rows)} for e in expectations]


def _checked(expected: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    trend = expected.get("trend")
    pairs = _trends(expected, rows) if trend else _differences(expected, rows)
    if not pairs:
        return {"holds": None, "because": f"{expected['metric']} was not measured on its arms"}
    gaps = [gap for gap, _ in pairs]
    because = "; ".join(text for _, text in pairs)
    if all(gap > 0 for gap in gaps):
        return {"holds": True, "because": because}
    return {"holds": False if np.mean(gaps) <= 0 else None, "because": because}


def _value(row: Row, name: str) -> float | None:
    return row["metrics"].get(name, {}).get("value")


def _figure(value: float) -> str:
    """Two decimals, or four where two would show nothing."""
    return f"{value:.4f}" if 0 < abs(value) < 0.05 else f"{value:.2f}"


def _differences(expected: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[float, str]]:
    name, (above, below) = expected["metric"], expected["arms"]
    found = {(row["key"], row["seed"]): _value(row, name) for row in rows}
    out = []
    for seed in sorted({row["seed"] for row in rows}):
        high, low = found.get((above, seed)), found.get((below, seed))
        if high is not None and low is not None:
            out.append((high - low, f"seed {seed}: {_figure(high)} against {_figure(low)}"))
    return out


def _trends(expected: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[float, str]]:
    sign = 1.0 if expected["trend"] == "rises" else -1.0
    out = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [r for r in rows if r["seed"] == seed and _value(r, expected["metric"]) is not None]
        own.sort(key=lambda row: row["order"])
        values = [float(r["metrics"][expected["metric"]]["value"]) for r in own]
        if len(values) < 3:
            continue
        if np.ptp(values) == 0:
            out.append((0.0, f"seed {seed}: no change"))
            continue
        rank = float(stats.spearmanr(np.arange(len(values)), values).statistic)
        span = f"from {_figure(values[0])} to {_figure(values[-1])}"
        text = f"seed {seed}: {span} (rank correlation {rank:.2f})"
        out.append((sign * rank, text))
    return out

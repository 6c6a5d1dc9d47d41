"""Tables of a report: its rows from results of either shape, and each figure's data as columns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from memjax.evaluate.statistics.roc import roc_curve
from memjax.report.charts.dot_plot import Panel
from memjax.report.charts.image_grid import wall_order

FAMILIES = ("memorized", "other", "sample", "background")
_RULES = {
    "adaptive": "Calibrated distance ≤ 1",
    "third": "Below 1/3 of the second closest",
    "background": "Closer than 95 % of pictures never shown",
}
Columns = dict[str, list[Any]]


class RuleRow(NamedTuple):
    """Copy rates by one rule; ``rates`` has ``copy_rate_<family>`` and its ``_low``, ``_high``."""

    name: str
    chosen: bool
    rates: Mapping[str, Any]


def similarity_rows(similarity: Mapping[str, Any]) -> list[RuleRow]:
    """Returns one row a copy rule, the chosen one first.

    Reads ``copy_rate_<family>`` (the chosen rule), and the other rules from
    ``copy_rate_<rule>_<family>`` or from ``by_rule.<rule>.copy_rate_<family>``.
    """
    if not similarity:
        return []
    chosen = similarity.get("rule", "adaptive")
    chosen = chosen if chosen in _RULES else "adaptive"
    rows = [RuleRow(_RULES[chosen], True, similarity)]
    nested = similarity.get("by_rule", {})
    for rule, name in _RULES.items():
        flat = {
            key.replace(f"copy_rate_{rule}_", "copy_rate_"): value
            for key, value in similarity.items()
            if any(key.startswith(f"copy_rate_{rule}_{family}") for family in FAMILIES)
        }
        rates = nested.get(rule) or flat
        if rule != chosen and rates:
            rows.append(RuleRow(name, False, rates))
    return rows


def classifier_rows(classifier: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Returns ``(finding, {auc, auc_low, auc_high}, judged)`` a finding.

    Reads ``{finding: auc}``, ``{finding: {auc, ...}}`` or ``{held_out_auc: {finding: auc},
    judged_findings: [...]}``; ``judged`` says whether the finding counts in the agreement.
    """
    values = classifier.get("held_out_auc", classifier)
    judged = classifier.get("judged_findings")
    rows = []
    for name, value in values.items():
        if value is None or isinstance(value, (int, float)):
            value = {"auc": value}
        if isinstance(value, Mapping) and "auc" in value:
            rows.append((name, value, judged is None or name in judged))
    return rows


def versus(figures: Mapping[str, Any], family: str) -> Mapping[str, Any]:
    """Returns a detector's figures against one family: ``against_<family>`` or ``<family>``."""
    return figures.get(f"against_{family}") or figures.get(family) or {}


class DistributionRow(NamedTuple):
    """One distribution metric: of the generated images, of held-out real ones, how to read it."""

    name: str
    generated: Any
    background: Any
    reading: str
    share: bool


_DISTRIBUTION = (
    ("fd", "Fréchet distance (FD)", "0 = same distribution; lower is closer", False),
    ("fd_infinity", "FD for endlessly many images (FD∞)", "the same without sample bias", False),
    ("kid", "Kernel distance (KID)", "0 = same; may lie slightly below", False),
    ("kid_sd", "Spread of KID over subsets", "standard deviation", False),
    ("precision", "Precision", "share of generated images that look real", True),
    ("recall", "Recall", "share of real images that the model reaches", True),
    ("density", "Density", "as precision, but counts crowding; 1 is usual", False),
    ("coverage", "Coverage", "share of real images with a generated one nearby", True),
    ("auth_pct", "Authentic images (AuthPct)", "in %; far below the background: copying", False),
    ("c_t", "Copying statistic (C_T)", "far below 0: closer to training than real ones", False),
    (
        "percentile_below_5",
        "Images nearer than 95 % of real ones",
        "5 % is expected by chance; more means copying",
        True,
    ),
)


def distribution_rows(entry: Mapping[str, Any]) -> list[DistributionRow]:
    """Returns the metrics that one entry of ``results["distribution"]`` holds, in reading order."""
    background = entry.get("background") or {}
    return [
        DistributionRow(name, entry.get(key), background.get(key), reading, share)
        for key, name, reading, share in _DISTRIBUTION
        if entry.get(key) is not None or background.get(key) is not None
    ]


def has_any(rows: Sequence[Mapping[str, Any]], *keys: str) -> bool:
    """Whether at least one row has one of the figures; a table without any is left out."""
    return any(row.get(key) is not None for row in rows for key in keys)


def scatter_table(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_name: str = "magnitude (RMS)",
    y_name: str = "similarity (higher = more alike)",
) -> Columns:
    """Returns one row an image: group, x, y; of :func:`~memjax.report.charts.scatter`'s groups."""
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
    """Returns one row an image: group, value."""
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

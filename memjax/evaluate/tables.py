"""Rows of the report's tables, from the results in either of their two shapes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FAMILIES = ("memorized", "other", "background")
_RULES = {
    "adaptive": "Calibrated distance ≤ 1",
    "third": "Below 1/3 of the second closest",
    "background": "Closer than 95 % of pictures never shown",
}


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
    """One distribution metric: of the generated pictures, of held-out real ones, how to read it."""

    name: str
    generated: Any
    background: Any
    reading: str
    share: bool


_DISTRIBUTION = (
    ("fd", "Fréchet distance (FD)", "0 = same distribution; lower is closer", False),
    ("fd_infinity", "FD for endlessly many pictures (FD∞)", "the same without sample bias", False),
    ("kid", "Kernel distance (KID)", "0 = same; may lie slightly below", False),
    ("kid_sd", "Spread of KID over subsets", "standard deviation", False),
    ("precision", "Precision", "share of generated pictures that look real", True),
    ("recall", "Recall", "share of real pictures that the model reaches", True),
    ("density", "Density", "as precision, but counts crowding; 1 is usual", False),
    ("coverage", "Coverage", "share of real pictures with a generated one nearby", True),
    ("auth_pct", "Authentic pictures (AuthPct)", "in %; far below the background: copying", False),
    ("c_t", "Copying statistic (C_T)", "far below 0: closer to training than real ones", False),
    (
        "percentile_below_5",
        "Pictures nearer than 95 % of real ones",
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

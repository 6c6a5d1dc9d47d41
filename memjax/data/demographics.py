"""Age and sex as tables write them; what is impossible is counted and left unknown."""

from collections.abc import Mapping

from memjax.data.problems import Problems

OLDEST = 120


def age_of(text: str, where: str, column: str, problems: Problems) -> int | None:
    """Whole years from 1 to 120; None where missing (empty or 0) or impossible."""
    try:
        years = float(text or 0)
    except ValueError:
        years = -1.0
    if not (0 <= years <= OLDEST and years == int(years)):
        problems.add("impossible age", f"{where}, column {column!r}: {text[:40]!r}")
        return None
    return int(years) or None


def sex_of(text: str, where: str, column: str, words: Mapping[str, str], problems: Problems) -> str:
    """``'Male'``, ``'Female'`` or ``''``; ``words`` says how the table writes each of them."""
    if text in words:
        return words[text]
    problems.add("impossible sex", f"{where}, column {column!r}: {text[:40]!r}")
    return ""

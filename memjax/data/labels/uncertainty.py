"""What an uncertain label means to training: one policy per finding.

=============== ==========================================================================
``multiclass``  a state of its own, with a token of its own (the default)
``ones``        taken as positive
``zeros``       taken as negative
``ignore``      withheld: the finding's token is its slot's null, its classifier target unknown
``resample(p)`` positive with probability p, else negative, drawn anew each time it is read
=============== ==========================================================================

References:
    Irvin et al. 2019, arXiv:1901.07031, section 3.1 (U-Ones, U-Zeros, U-MultiClass, U-Ignore);
    Somepalli et al. 2023, arXiv:2305.20086, section 7 (conditions varied anew at every epoch).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from memjax.data.labels.space import (
    FINDINGS,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    LabelSpace,
    suggestion,
)
from memjax.data.records import Record

POLICIES: tuple[str, ...] = ("ones", "zeros", "multiclass", "ignore", "resample")
_BECOMES = {"ones": POSITIVE, "zeros": NEGATIVE, "ignore": IGNORED}
_WRITTEN = re.compile(r"([\w-]+)\s*(?:\(\s*([^()]*?)\s*\))?")
_EXPECTED = "ones, zeros, multiclass, ignore or resample(p) with p from 0 to 1"


class Policy(NamedTuple):
    """What to do with a finding's uncertain labels; ``p`` counts for ``resample`` alone."""

    kind: str = "multiclass"
    p: float = 0.5


def parse_policies(spec: str | Mapping[str, str] | None) -> dict[str, Policy]:
    """The policy of every finding.

    Args:
        spec: One policy for all (``"multiclass"``), or finding → policy; ``"*"`` stands for the
            findings that are not named (else ``multiclass``). ``resample`` without a number is
            ``resample(0.5)``.

    Raises:
        ValueError: An unknown policy or finding, or an impossible probability.
    """
    if spec is None or isinstance(spec, str):
        return dict.fromkeys(FINDINGS, _policy(spec or "multiclass", "*"))
    if not hasattr(spec, "items"):
        raise ValueError(
            f"uncertainty is {spec!r}; expected one policy ({_EXPECTED}) or a policy per finding."
        )
    given = {_finding(name): _policy(text, name) for name, text in spec.items()}
    rest = given.pop("*", Policy())
    return {name: given.get(name, rest) for name in FINDINGS}


def _policy(text: Any, name: str) -> Policy:
    if isinstance(text, Policy):
        return text
    written = _WRITTEN.fullmatch(str(text).strip().casefold())
    if written is None or written[1] not in POLICIES:
        word = written[1] if written else str(text)
        raise ValueError(
            f"uncertainty of {name!r} is {text!r}{suggestion(word, POLICIES)}; "
            f"expected {_EXPECTED}."
        )
    if written[2] is None:
        return Policy(written[1])
    if written[1] != "resample":
        raise ValueError(
            f"uncertainty of {name!r} is {text!r}; only resample takes a number: write "
            f"{written[1]!r}."
        )
    try:
        p = float(written[2])
    except ValueError:
        p = -1.0
    if not 0 <= p <= 1:
        raise ValueError(
            f"uncertainty of {name!r} is {text!r}; expected resample(p) with a probability p "
            "from 0 to 1."
        )
    return Policy("resample", p)


def _finding(name: str) -> str:
    """The finding in its own spelling; ``"*"`` stays."""
    known = {other.casefold(): other for other in (*FINDINGS, "*")}
    found = known.get(str(name).replace("_", " ").casefold())
    if found is None:
        raise ValueError(
            f"{name!r} is not a finding{suggestion(name, FINDINGS)}; expected '*' or names out of "
            f"{', '.join(FINDINGS)}."
        )
    return found


def apply_policies(
    records: Sequence[Record], policies: str | Mapping[str, Any] | None
) -> list[Record]:
    """The records with the uncertain labels of ``ones``, ``zeros`` and ``ignore`` settled.

    ``multiclass`` and ``resample`` leave a label uncertain; what is drawn for the latter is said
    by :func:`resample_table`. Under ``multiclass`` alone the very same records come back.

    Args:
        records: As read.
        policies: Of :func:`parse_policies`, or what that takes.

    Raises:
        ValueError: As :func:`parse_policies`.
    """
    return _settled(records, {n: _BECOMES.get(p.kind) for n, p in parse_policies(policies).items()})


def likeliest(records: Sequence[Record], policies: str | Mapping[str, Any] | None) -> list[Record]:
    """As :func:`apply_policies`, with a label under ``resample(p)`` set to what is drawn oftener.

    For prompts: a model trained under ``resample`` never saw the token of "uncertain".
    """
    parsed = parse_policies(policies)
    becomes = {
        name: (POSITIVE if policy.p >= 0.5 else NEGATIVE)
        if policy.kind == "resample"
        else _BECOMES.get(policy.kind)
        for name, policy in parsed.items()
    }
    return _settled(records, becomes)


def _settled(records: Sequence[Record], becomes: Mapping[str, int | None]) -> list[Record]:
    new = [becomes[name] for name in FINDINGS]
    if all(state is None for state in new):
        return list(records)
    return [
        record._replace(
            findings=tuple(
                other if state == UNCERTAIN and other is not None else state
                for state, other in zip(record.findings, new, strict=True)
            )
        )
        if UNCERTAIN in record.findings
        else record
        for record in records
    ]


def resample_table(
    records: Sequence[Record], space: LabelSpace, policies: str | Mapping[str, Any] | None
) -> Float32[np.ndarray, "n l"] | None:
    """Probability of "positive" for every token that is drawn anew; NaN where it is fixed.

    Args:
        records: As read or after :func:`apply_policies`.
        space: The label space the tokens belong to.
        policies: Of :func:`parse_policies`, or what that takes.

    Returns:
        The table for ``make_batches(resample=...)``; None where no finding is resampled.
    """
    parsed = parse_policies(policies)
    drawn = [
        (column, slot.name)
        for column, slot in enumerate(space.slots)
        if slot.name in FINDINGS and parsed[slot.name].kind == "resample"
    ]
    if not drawn or not len(records):
        return None
    table = np.full((len(records), space.num_tokens), np.nan, np.float32)
    states = np.array([record.findings for record in records], np.int32)
    for column, name in drawn:
        uncertain = states[:, FINDINGS.index(name)] == UNCERTAIN
        table[uncertain, column] = parsed[name].p
    return table


def keep_rows(records: Sequence[Record], findings: Iterable[str] = ()) -> list[Record]:
    """Keeps the records that are positive for at least one of the findings.

    Args:
        records: After :func:`apply_policies`, so that ``ones`` counts as positive.
        findings: Names out of FINDINGS; none keeps every record.

    Raises:
        ValueError: An unknown finding, or no record is left.
    """
    names = [_finding(name) for name in ([findings] if isinstance(findings, str) else findings)]
    if not names:
        return list(records)
    if "*" in names:
        raise ValueError("rows_with holds '*'; expected names of findings, or () for every row.")
    columns = [FINDINGS.index(name) for name in names]
    kept = [r for r in records if any(r.findings[column] == POSITIVE for column in columns)]
    if records and not kept:
        raise ValueError(
            f"None of {len(records)} rows is positive for {' or '.join(names)}; expected at least "
            "one: name other findings in rows_with, or () for every row."
        )
    return kept

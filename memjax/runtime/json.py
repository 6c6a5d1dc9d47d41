"""Results as plain JSON values: no arrays, no NaN, no more digits than a figure carries."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

_DIGITS = 400  # of a whole number; Python's own limit is 4,300


def loads(text: str | bytes) -> Any:
    """Parses JSON and nothing else.

    Raises:
        ValueError: The text is no UTF-8 or no JSON, holds NaN, an infinity (a number that only
            becomes one by its size, too) or a whole number of more than 400 digits, or is nested
            too deeply.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits, expected at most {_DIGITS}")
    return int(text)


def to_plain(value: Any, *, digits: int | None = None) -> Any:
    """Converts nested results to what JSON knows.

    Arrays and tuples become lists, NumPy and JAX scalars numbers, NaN and infinities ``None``,
    NamedTuples and dataclasses dicts, anything else its text.

    Args:
        value: Any nesting of mappings, sequences, arrays and scalars.
        digits: Significant digits floats are rounded to; None keeps all.
    """
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, digits=digits) for k, v in value.items()}
    if hasattr(value, "_asdict"):
        return to_plain(value._asdict(), digits=digits)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return to_plain(fields, digits=digits)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [to_plain(v, digits=digits) for v in items]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    return _number(value, digits)


def _number(value: Any, digits: int | None) -> Any:
    if isinstance(value, float):
        return _rounded(value, digits)
    try:
        array = np.asarray(value)
    except TypeError:
        return str(value)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufU":
        return str(value)
    return to_plain(array.tolist(), digits=digits)


def _rounded(value: float, digits: int | None) -> float | None:
    if not math.isfinite(value):
        return None
    return float(value) if digits is None else float(f"{value:.{digits}g}")


def text_digest(value: Any) -> str:
    """Returns a digest of a JSON-able value."""
    text = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

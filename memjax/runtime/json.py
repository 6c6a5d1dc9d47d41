"""JSON as its standard has it: read and written by one pair of functions, without NaN.

Results become plain values first: no arrays, no more digits than a figure carries.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from memjax.runtime.files import write_bytes

logger = logging.getLogger(__name__)
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


def dumps(
    value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii: bool = False
) -> str:
    """Returns JSON; what is not finite is null, and the log names it.

    Args:
        value: JSON-able.
        indent: Blanks a level; None: one line.
        sort_keys: Whether keys stand in order.
        ascii: Whether other letters are escaped.
    """
    kind: dict[str, Any] = {"indent": indent, "sort_keys": sort_keys, "ensure_ascii": ascii}
    try:
        return json.dumps(value, allow_nan=False, **kind)
    except ValueError:
        names = list(_not_finite(value))
        if not names:  # it refers to itself
            raise
    logger.warning("not finite, written as null: %s.", ", ".join(names[:5]) + _more(names))
    return json.dumps(to_plain(value), allow_nan=False, **kind)


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield name or "the value"
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        yield from _not_finite(item, f"{name}.{key}" if name else str(key))


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""


def write_json(
    path: str | os.PathLike[str], value: Any, *, indent: int | None = 1, sort_keys: bool = False
) -> Path:
    """Writes a JSON file that appears whole; see :func:`dumps`."""
    text = dumps(value, indent=indent, sort_keys=sort_keys)
    return write_bytes(path, text_bytes(text + "\n"))


def text_bytes(text: str) -> bytes:
    """Encodes text; names of files that are no Unicode are escaped, as JSON escapes them."""
    return text.encode("utf-8", "backslashreplace")


class BadLine(NamedTuple):
    """A line that is no JSON object.

    Attributes:
        number: From 1 on.
        text: Its bytes.
        reason: Why it is none.
    """

    number: int
    text: bytes
    reason: str


def read_lines(
    path: str | os.PathLike[str], fits: Callable[[dict[str, Any]], bool] = lambda row: True
) -> tuple[list[dict[str, Any]], list[BadLine]]:
    """Reads a file of one JSON object a line; a file that is not there has none.

    Args:
        path: The file.
        fits: Whether an object is one of those that the file should hold.

    Returns:
        The objects, and the lines that are none: what follows them is read all the same.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    bad: list[BadLine] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it is a JSON {type(row).__name__}, expected an object")
            if not fits(row):
                raise ValueError("its fields are not those of the others")
            rows.append(row)
        except ValueError as error:
            bad.append(BadLine(number, line, f"{error}"[:120]))
    return rows, bad


def keep_aside(path: str | os.PathLike[str], bad: list[BadLine]) -> None:
    """Appends lines that could not be read to ``NAME.unreadable`` and says which they are."""
    if not bad:
        return
    path = Path(path)
    aside = path.with_name(f"{path.name}.unreadable")
    with open(aside, "ab") as file:
        file.writelines(line.text + b"\n" for line in bad)
    logger.warning("%s; kept in %s.", bad_lines(path, bad), aside.name)


def bad_lines(path: str | os.PathLike[str], bad: list[BadLine]) -> str:
    """Returns what is said about lines that could not be read: how many, and which."""
    numbers = [str(line.number) for line in bad]
    which = ", ".join(numbers[:5]) + _more(numbers)
    return (
        f"{path}: {len(bad)} line{'s' if len(bad) > 1 else ''} cannot be read and "
        f"{'are' if len(bad) > 1 else 'is'} left out (line {which}: {bad[0].reason})"
    )


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the object in a file that nothing depends on; empty where it is missing or damaged.

    The log says what was wrong with it.
    """
    try:
        found = loads(Path(path).read_bytes())
        if isinstance(found, dict):
            return found
        reason = f"it is a JSON {type(found).__name__}, expected an object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = str(error)
    logger.warning("%s cannot be read (%s): it goes on without it.", path, reason[:200])
    return {}


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
    text = dumps(to_plain(value), sort_keys=True)
    return hashlib.sha256(text_bytes(text)).hexdigest()[:16]

"""JSON files of foreign folders: bounded, strict, and a mistake is one sentence."""

from pathlib import Path
from typing import Any

from memjax.interop.file_kinds import stand_in
from memjax.runtime.json import loads

MAX_BYTES = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    .. note:: ``NaN`` and infinities are refused, numbers that only become infinite by their size
        as well: no setting of a network is one.

    Raises:
        ValueError: The file is missing, longer than ``MAX_BYTES`` or not a JSON object.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}; put it there or give another folder.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"The file {path} has {path.stat().st_size} bytes, expected at most {MAX_BYTES} for "
            "settings; fetch it again."
        )
    try:
        value = loads(path.read_bytes())
    except ValueError as error:
        kind = stand_in(path.read_bytes())
        if kind is not None:
            raise ValueError(f"The file {path} is {kind}.") from error
        raise ValueError(
            f"The file {path} is not valid JSON ({' '.join(str(error).split())[:200]}); fetch it "
            "again."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"The file {path} holds a JSON {type(value).__name__}, expected an object of settings; "
            "fetch it again."
        )
    return value

"""Safetensors files, tensor by tensor: what is in them first, then one tensor at a time.

The pages of a memory-mapped file count as used memory for as long as the file is open. Reading a
checkpoint in one go therefore takes twice its size; here a file is closed and opened again every
``REOPEN_BYTES``, and no more than that is ever mapped in.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from memjax.interop.file_kinds import other_kind

REOPEN_BYTES = 16 * 2**20
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
EIGHTHS = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8")
_OTHERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Stored(NamedTuple):
    """A tensor that has not been read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Bytes it takes in the file."""
        return math.prod(self.shape) * (FLOATS | _OTHERS).get(self.dtype, 8)


class WeightFiles:
    """The tensors of one or several safetensors files.

    Attributes:
        stored: Name → tensor, in the order of the files and of the places in them.
    """

    def __init__(self, files: Sequence[Path]):
        self.stored: dict[str, Stored] = {}
        for file in files:
            for name, tensor in _contents(file).items():
                if name in self.stored:
                    raise ValueError(
                        f"The tensor {printable(name)} is in {self.stored[name].file} and in "
                        f"{file}; fetch the weights again."
                    )
                self.stored[name] = tensor
        self._open: Any = None
        self._file: Path | None = None
        self._read = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.num_bytes for tensor in self.stored.values())

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor, copied out of its file.

        Raises:
            ValueError: The file changed or was damaged since it was opened.
        """
        tensor = self.stored[name]
        if self._file != tensor.file or self._read > REOPEN_BYTES:
            self.close()
            self._open, self._file = _open(tensor.file), tensor.file
        self._read += tensor.num_bytes
        try:
            return self._open.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(tensor.file, error) from error

    def close(self) -> None:
        """Lets go of the mapped pages."""
        self._open, self._file, self._read = None, None, 0


def read_metadata(file: Path) -> dict[str, str]:
    """Returns the texts that a file carries beside its tensors.

    Raises:
        ValueError: The file is missing or damaged.
    """
    return _open(file).metadata() or {}


def printable(text: str, longest: int = 200) -> str:
    """Returns text from a file as one line of bounded length that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def _contents(file: Path) -> dict[str, Stored]:
    opened = _open(file)
    found = {}
    for name in opened.offset_keys():
        part = opened.get_slice(name)
        found[name] = Stored(file, tuple(part.get_shape()), str(part.get_dtype()))
    return found


def _open(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(
            f"There is no weights file {file}; fetch it, or give the folder that holds it."
        )
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    kind = other_kind(file)
    if kind is not None:
        return ValueError(f"The file {file} is {printable(kind, 600)}.")
    said = printable(" ".join(str(error).split()))
    return ValueError(f"The file {file} is damaged ({said}); fetch it again.")

"""What a long job has done so far, kept part by part, so that a stopped one goes on.

Every command that takes long keeps its parts here: a folder with ``job.json``, which says what was
asked for, and one file a part, which appears whole or not at all and carries the job's digest.
"""

import contextlib
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped

from memjax.runtime.files import write_bytes
from memjax.runtime.json import loads, text_digest, to_plain, write_json
from memjax.runtime.locks import LOCK_FILE, hold

JOB_FILE = "job.json"
_SEAL, _RECORDS = "fingerprint", "records"


def content_digest(tree: PyTree) -> str:
    """Returns a digest of all numbers of a pytree, their shapes and types, one leaf at a time."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(_numbers(leaf))
        total.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        total.update(zlib.crc32(array.reshape(-1).view(np.uint8).data).to_bytes(4, "big"))
    return total.hexdigest()[:16]


def _numbers(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of an .npz file, or None if it is missing or damaged."""
    try:
        with open(file, "rb") as data, np.load(data, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # a damaged zip file raises whatever its readers do
        return None


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """Returns arrays as an .npz file, compressed where that takes no minutes."""
    buffer = io.BytesIO()
    large = sum(a.nbytes for a in arrays.values()) > 1 << 27
    save = np.savez if large else np.savez_compressed
    save(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


class Store:
    """The parts of one job; parts of another job are never read."""

    def __init__(self, folder: str | Path, job: Mapping[str, Any]):
        """Looks at what is there; nothing is written yet.

        Args:
            folder: Where the parts are kept; the command's own.
            job: Everything that decides the results, by name.
        """
        self.folder = Path(folder)
        self._job = to_plain(job)
        self.fingerprint = text_digest(self._job)

    def check(self, restart: bool = False, way_out: str = "another --out") -> None:
        """Refuses parts of another job; ``restart`` discards them, and those of this one.

        Args:
            restart: Discard what is there.
            way_out: What else a user may do, at the end of the sentence.

        Raises:
            ValueError: Naming what changed, and the ways out.
        """
        if restart:
            self.discard()
        before = self._known_job()
        if before == self._job:
            return
        changed = sorted(k for k in {*before, *self._job} if before.get(k) != self._job.get(k))
        said = ", ".join(_change(k, before.get(k), self._job.get(k)) for k in changed)
        raise ValueError(
            f"{self.folder} holds scores of an unfinished run that was asked for something else "
            f"({said}): give the same flags to go on, --restart to discard them, or {way_out}."
        )

    def same_job(self) -> bool:
        """Returns whether what is kept is this job's, or nothing is."""
        try:
            return self._known_job() == self._job
        except ValueError:
            return False

    def _known_job(self) -> dict[str, Any]:
        file = self.folder / JOB_FILE
        try:
            found = loads(file.read_bytes())
            return dict(found)
        except FileNotFoundError:
            if not self.files():
                return self._job  # nothing was kept yet
            raise ValueError(
                f"{self.folder} holds parts but no {JOB_FILE}: --restart discards them."
            ) from None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged ({error}): --restart discards the parts beside it."
            ) from error

    def start(self) -> None:
        """Writes what the job is, where no earlier run has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / JOB_FILE).is_file():
            write_json(self.folder / JOB_FILE, self._job, sort_keys=True)

    def files(self) -> list[Path]:
        """Returns the parts there are, of whatever job."""
        return sorted(self.folder.glob("part-*.npz"))

    def _file(self, name: str) -> Path:
        return self.folder / f"part-{name}.npz"

    def read(self, name: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]] | None:
        """Returns a part's records and arrays; None where it is missing, damaged or of another."""
        arrays = read_arrays(self._file(name))
        if arrays is None or str(arrays.pop(_SEAL, "")) != self.fingerprint:
            return None
        try:
            records = json.loads(arrays.pop(_RECORDS).tobytes()) if _RECORDS in arrays else []
        except ValueError:
            return None
        return records, arrays

    def keep(
        self,
        name: str,
        arrays: Mapping[str, np.ndarray],
        records: list[dict[str, Any]] | None = None,
    ) -> None:
        """Writes one part.

        Args:
            name: Its own within the job.
            arrays: By name.
            records: JSON-able rows that belong to them.
        """
        more: dict[str, np.ndarray] = {}
        if records is not None:
            more[_RECORDS] = np.frombuffer(json.dumps(records).encode(), np.uint8)
        more[_SEAL] = np.asarray(self.fingerprint)
        write_bytes(self._file(name), npz_bytes(**arrays, **more))

    def keep_rows(self, rows: Int[np.ndarray, " k"], values: Shaped[np.ndarray, "k *d"]) -> None:
        """Writes the values of some rows as one part."""
        values = np.asarray(values, np.float32)
        self.keep(f"{int(min(rows)):06d}", {"rows": np.asarray(rows, np.int64), "per_step": values})

    def read_rows(
        self, count: int, say: Callable[[str], None] = lambda text: None
    ) -> tuple[Shaped[np.ndarray, "n *d"] | None, Int[np.ndarray, " m"]]:
        """Returns the values so far (NaN where there are none) and the rows still to do.

        Args:
            count: How many rows there are.
            say: Told which part is not taken.
        """
        values: np.ndarray | None = None
        done = np.zeros(count, bool)
        for file in self.files():
            part = self._read_rows(file, count)
            if part is None:
                say(f"{file.name} is damaged or of another run: its prompts are scored again.")
                continue
            rows, found = part
            if values is None:
                values = np.full((count, *found.shape[1:]), np.nan, np.float32)
            values[rows], done[rows] = found, True
        return values, np.flatnonzero(~done)

    def _read_rows(self, file: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        part = self.read(file.stem.removeprefix("part-"))
        if part is None or not {"rows", "per_step"} <= part[1].keys():
            return None
        rows, values = part[1]["rows"], part[1]["per_step"]
        if values.ndim == 3:  # of version 0.1, which had one detector
            values = values[:, None]
        fits = rows.ndim == 1 and values.ndim == 4 and len(rows) == len(values) > 0
        return (rows, values) if fits and rows.min() >= 0 and rows.max() < count else None

    def discard(self) -> None:
        """Removes the parts and what the job is, but not the folder."""
        for file in (*self.files(), self.folder / JOB_FILE):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Takes away what was kept once the output is written, and the folder if it is empty."""
        self.discard()
        with contextlib.suppress(OSError):
            if [place.name for place in self.folder.iterdir()] == [LOCK_FILE]:
                (self.folder / LOCK_FILE).unlink()
            self.folder.rmdir()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out; a folder in which nothing was kept is taken away again."""
        with hold(self.folder):
            try:
                yield
            finally:
                if not self.files():
                    self.remove()


def _change(name: str, before: Any, now: Any) -> str:
    plain = all(isinstance(v, str | int | float | bool | None) for v in (before, now))
    short = plain and name not in ("model", "prompts", "noise", "null condition")
    return f"{name} {before} -> {now}" if short else f"another {name}"

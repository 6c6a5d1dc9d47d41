"""Scores kept part by part beside the output, so that a killed run goes on where it was."""

import contextlib
import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from memjax.evaluate.plain import to_plain
from memjax.training.atomic import write_bytes
from memjax.training.lock import workdir_lock

JOB_FILE = "job.json"


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


def text_digest(value: Any) -> str:
    """Returns a digest of a JSON-able value."""
    text = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of an .npz file, or None if it is missing or damaged."""
    try:
        with open(file, "rb") as data, np.load(data, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


class Parts:
    """The folder ``OUT.parts``: what the job is, and the scores of the rows that are done.

    Every file is written whole; a part holds row numbers, their scores and the job's fingerprint.
    """

    def __init__(self, out: str | Path, job: Mapping[str, Any], rows: int):
        """Looks at what is there; nothing is written yet.

        Args:
            out: The output file.
            job: Everything that decides the scores, by name.
            rows: How many rows there are.

        Raises:
            ValueError: If the folder holds the parts of another job.
        """
        self.folder = Path(f"{out}.parts")
        self._job = to_plain(job)
        self._rows = rows
        self.fingerprint = text_digest(self._job)

    def check(self, restart: bool = False) -> None:
        """Refuses parts of another job; ``restart`` discards them, and those of this one.

        Raises:
            ValueError: Naming what changed, and the ways out.
        """
        if restart:
            for file in (*self._files(), self.folder / JOB_FILE):
                file.unlink(missing_ok=True)
        before = self._known_job()
        if before == self._job:
            return
        changed = sorted(k for k in {*before, *self._job} if before.get(k) != self._job.get(k))
        said = ", ".join(_change(k, before.get(k), self._job.get(k)) for k in changed)
        raise ValueError(
            f"{self.folder} holds scores of an unfinished run that was asked for something else "
            f"({said}): give the same flags to go on, --restart to discard them, or another --out."
        )

    def _known_job(self) -> dict[str, Any]:
        file = self.folder / JOB_FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return dict(found)
        except FileNotFoundError:
            if not self._files():
                return self._job  # nothing was kept yet
            raise ValueError(
                f"{self.folder} holds parts but no {JOB_FILE}: --restart discards them."
            ) from None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged ({error}): --restart discards the parts beside it."
            ) from error

    def read(self) -> tuple[Float[np.ndarray, "p k g s"] | None, Int[np.ndarray, " n"]]:
        """Returns the scores so far (NaN where there are none) and the rows still to do."""
        per_step: np.ndarray | None = None
        done = np.zeros(self._rows, bool)
        for file in self._files():
            part = self._read_part(file)
            if part is None:
                print(f"{file.name} is damaged or of another run: its prompts are scored again.")
                continue
            rows, scores = part
            if per_step is None:
                per_step = np.full((self._rows, *scores.shape[1:]), np.nan, np.float32)
            per_step[rows], done[rows] = scores, True
        return per_step, np.flatnonzero(~done)

    def _read_part(self, file: Path) -> tuple[np.ndarray, np.ndarray] | None:
        arrays = read_arrays(file)
        if arrays is None or not {"rows", "per_step", "fingerprint"} <= arrays.keys():
            return None
        rows, scores, whose = arrays["rows"], arrays["per_step"], str(arrays["fingerprint"])
        if scores.ndim == 3:  # of version 0.1, which had one detector
            scores = scores[:, None]
        fits = rows.ndim == 1 and scores.ndim == 4 and len(rows) == len(scores) > 0
        if not fits or rows.min() < 0 or rows.max() >= self._rows or whose != self.fingerprint:
            return None
        return rows, scores

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def start(self) -> None:
        """Writes what the job is, where no earlier run has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / JOB_FILE).is_file():
            text = json.dumps(self._job, indent=1, sort_keys=True, ensure_ascii=False)
            write_bytes(self.folder / JOB_FILE, text.encode())

    def keep(self, rows: Int[np.ndarray, " k"], per_step: Float[np.ndarray, "k d g s"]) -> None:
        """Writes one part."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            rows=np.asarray(rows, np.int64),
            per_step=np.asarray(per_step, np.float32),
            fingerprint=np.asarray(self.fingerprint),
        )
        write_bytes(self.folder / f"part-{int(min(rows)):06d}.npz", buffer.getvalue())

    def remove(self) -> None:
        """Takes the folder away, once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out; a folder in which nothing was kept is taken away again."""
        try:
            with workdir_lock(self.folder):
                yield
        finally:
            if not self._files():
                self.remove()


def _change(name: str, before: Any, now: Any) -> str:
    plain = all(isinstance(v, str | int | float | bool | None) for v in (before, now))
    short = plain and name not in ("model", "prompts", "noise", "null condition")
    return f"{name} {before} -> {now}" if short else f"another {name}"

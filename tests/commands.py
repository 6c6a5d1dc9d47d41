"""How the tests call a command, and what they write for it and read of it."""

import contextlib
import fcntl
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from memjax.cli.main import main
from memjax.training.seal import CONFIG, seal

PATIENCE = 900  # seconds a test waits for a process: a busy machine may be ten times as slow


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def memjax(*arguments: object) -> Done:
    """Runs a command in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextlib.contextmanager
def held_elsewhere(lock: Path):
    """Holds the file of a lock as another process does."""
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_prompts(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_if_trained(run: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copies a run as if it had been trained, and sealed, with a changed configuration."""
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    shutil.copy(run / "training.json", folder)
    record = json.loads((run / "run.json").read_text())
    change(record["config"])
    (folder / "run.json").write_text(json.dumps(record))
    for step in (folder / "checkpoints").iterdir():
        saved = json.loads((step / CONFIG).read_text())
        change(saved)
        (step / CONFIG).write_text(json.dumps(saved))
        seal(step)
    return folder


def with_dropout(run: Path, folder: Path, cond_dropout: float) -> Path:
    """Copies a run as if it had been trained with another condition dropout."""
    return as_if_trained(run, folder, lambda c: c["train"].update(cond_dropout=cond_dropout))

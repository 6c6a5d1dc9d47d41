"""What the commands on a trained model share: opening it, how it samples, progress, provenance."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from memjax.runs.model import Model, source_of
from memjax.runtime.hosts import is_first
from memjax.runtime.json import to_plain
from memjax.runtime.locks import hold
from memjax.runtime.provenance import provenance
from memjax.sampling import SamplingOptions
from memjax.training.run import RUN_FILE, Run, read_run_file

_OF_A_RUN = (
    RUN_FILE,
    "checkpoints",
    "filtered_rows.json",
    "heartbeat",
    "metrics.jsonl",
    "nan_report.json",
    "profile",
    "samples",
    "tensorboard",
    "training.json",
)

_MOST_BYTES = 200  # of a file's name


def sampling_options(
    run: Run | Model, num_steps: int | None = None, guidance_scale: float | None = None
) -> SamplingOptions:
    """Returns how the run samples, with the command line's changes."""
    chosen = dict(run.config["sampling"])
    if num_steps is not None:
        chosen["num_steps"] = num_steps
    if guidance_scale is not None:
        chosen["guidance_scale"] = guidance_scale
    return SamplingOptions(**chosen)


def progress_bar(what: str, already: int = 0) -> Callable[[int, int], None]:
    """Returns ``(done, total) →`` a bar with the time left.

    Args:
        what: What is being done.
        already: How many an earlier run has done; they do not count as speed.
    """
    bar: tqdm | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, desc=what, unit="", leave=False, initial=already)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def model_provenance(run: Model, seed: int, **extra: Any) -> dict[str, Any]:
    """Returns what made an output: model, checkpoint, versions, seed, settings."""
    source = {} if run.pipeline is None else {"source": source_of(run.pipeline.info)}
    substitute = run.bundle.info.get("null")
    made = {
        **provenance(run.config, seed, run.step),
        "model": run.name,
        **source,
        **({"null": substitute} if substitute else {}),
        **extra,
    }
    return to_plain(made)  # an infinite radius is null, and nothing to warn of


def held(
    target: str | Path, writes: Iterable[str] = (), **options: Any
) -> contextlib.AbstractContextManager[Any]:
    """Holds an output as :func:`memjax.runtime.locks.hold` does; of several processes the first."""
    return hold(target, writes, **options) if is_first() else contextlib.nullcontext()


def held_run(
    workdir: str | Path, writes: Iterable[str] = (), *, force: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Holds the folder of a run for training; ``writes`` is what it has besides the usual.

    A run that was copied without its lock is still a run.
    """
    if not force and (Path(workdir) / RUN_FILE).is_file():
        with contextlib.suppress(ValueError):
            force = bool(read_run_file(workdir))
    return held(workdir, [*_OF_A_RUN, *writes], force=force, flag="workdir")


def safe_names(ids: Sequence[str]) -> list[str]:
    """Returns ids as distinct file names that stay in their folder and that any file system takes.

    File systems take 255 bytes, and a suffix follows; a letter may be four bytes.
    """
    taken: set[str] = set()
    names = []
    for text in ids:
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in text)
        plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore")
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names

"""What the commands on a trained model share: opening it, how it samples, progress, provenance."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from memjax.runs.model import Model, source_of
from memjax.runtime.provenance import provenance
from memjax.sampling import SamplingOptions
from memjax.training.run import Run

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
    return {
        **provenance(run.config, seed, run.step),
        "model": run.name,
        **source,
        **extra,
    }


def out_folder(path: str | Path, flag: str = "out") -> Path:
    """Makes the output folder that ``--flag`` names."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--{flag}={path} is a file, expected a folder: choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def no_empty_folders(path: str | Path) -> Iterator[None]:
    """Removes the folders that were made for ``path`` inside if an error leaves them empty."""
    folder = Path(path)
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        for place in absent:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def out_file(path: str, *inputs: str) -> Path:
    """Returns the output file; refuses a folder, and any of the files that are read."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"--out={path} is a folder, expected a file to write: add a file name.")
    if any(name and file.resolve() == Path(name).resolve() for name in inputs):
        raise ValueError(f"--out={path} is also read by this command: choose another name.")
    return file


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

"""What the commands on a trained model share: opening it, how it samples, progress, provenance."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from memjax.cli.configs import plain
from memjax.cli.defaults import base_config
from memjax.evaluate.options import SamplingOptions
from memjax.evaluate.provenance import provenance
from memjax.training.run import Run, open_run


def require(**values: Any) -> None:
    """Refuses missing flags by name."""
    missing = [f"--{name}" for name, value in values.items() if value in (None, "")]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given: see --help.")


def load_model(path: str) -> Run:
    """Opens what ``--model`` names."""
    run = open_run(path)
    run = run._replace(config=with_defaults(run.config))
    for step, reason in run.bundle.info["skipped_checkpoints"]:
        print(f"checkpoint {step} was passed over: {reason}")
    return run


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's configuration with the fields that its version did not have yet."""
    return _filled(config, plain(base_config()))


def _filled(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(config)
    for name, value in usual.items():
        if name not in out:
            out[name] = value
        elif isinstance(value, Mapping) and isinstance(out[name], Mapping):
            out[name] = _filled(out[name], value)
    return out


def sampling_options(
    run: Run, num_steps: int | None = None, guidance_scale: float | None = None
) -> SamplingOptions:
    """Returns how the run samples, with the command line's changes."""
    chosen = dict(run.config["sampling"])
    if num_steps is not None:
        chosen["num_steps"] = num_steps
    if guidance_scale is not None:
        chosen["guidance_scale"] = guidance_scale
    return SamplingOptions(**chosen)


def progress_bar(what: str) -> Callable[[int, int], None]:
    """Returns ``(done, total) →`` a bar with the time left."""
    bar: tqdm | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=total, desc=what, unit="prompt", leave=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def model_provenance(run: Run, seed: int, **extra: Any) -> dict[str, Any]:
    """Returns what made an output: model, checkpoint, versions, seed, settings."""
    return {
        **provenance(run.config, seed, run.step),
        "model": run.path.name,
        **extra,
    }


def out_folder(path: str | Path, flag: str = "out") -> Path:
    """Makes the output folder that ``--flag`` names."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--{flag}={path} is a file, expected a folder: choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def out_file(path: str, *inputs: str) -> Path:
    """Returns the output file; refuses a folder, and any of the files that are read."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"--out={path} is a folder, expected a file to write: add a file name.")
    if any(name and file.resolve() == Path(name).resolve() for name in inputs):
        raise ValueError(f"--out={path} is also read by this command: choose another name.")
    return file


def safe_names(ids: Sequence[str]) -> list[str]:
    """Returns ids as distinct file names that stay in their folder."""
    taken: set[str] = set()
    names = []
    for text in ids:
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:80]
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names

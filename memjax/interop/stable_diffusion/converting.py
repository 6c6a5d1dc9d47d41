"""One model of Stable Diffusion's formats → a diffusers folder."""

import os
from collections.abc import Callable
from pathlib import Path

from memjax.interop.progress import Progress
from memjax.interop.stable_diffusion.loading import load
from memjax.interop.stable_diffusion.pipeline import Pipeline
from memjax.interop.stable_diffusion.saving import check_target, save
from memjax.runtime.locks import hold


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    prediction: str | None = None,
    weights: str | None = None,
    save_variant: str | None = None,
    force: bool = False,
    progress: Callable[[str], Progress] | None = None,
    loaded: Callable[[Pipeline], None] | None = None,
) -> Path:
    """Loads a model and writes it as a diffusers folder.

    Args:
        source: As in :func:`memjax.interop.load`.
        target: The new folder.
        dtype: Of the written weights; None for float32.
        variant: Of the weights files that are read.
        revision: As in ``load``.
        tokenizer: As in ``load``.
        prediction: As in ``load``.
        weights: As in ``load``.
        save_variant: Of the weights files that are written.
        force: As in :func:`memjax.interop.save`.
        progress: Name of the stage (``"read"``, ``"write"``) → what is told its bytes.
        loaded: Called with the pipeline before it is written.

    Returns:
        The folder.

    Raises:
        ValueError: As in ``load`` and ``save``; the target is checked before anything is read.
    """
    folder = Path(target)
    if folder.suffix in (".safetensors", ".ckpt", ".bin", ".pt"):
        raise ValueError(f"The target {folder} is a file's name, expected a folder's.")
    _check_apart(Path(source), folder)
    stage = progress or (lambda name: lambda done, total: None)
    with hold(folder, kind="whole", flag="to"):
        check_target(folder, force=force)
        pipeline = load(
            source,
            dtype=dtype or "float32",
            variant=variant,
            revision=revision,
            tokenizer=tokenizer,
            prediction=prediction,
            weights=weights,
            progress=stage("read"),
        )
        if loaded is not None:
            loaded(pipeline)
        return save(pipeline, folder, variant=save_variant, force=force, progress=stage("write"))


def _check_apart(source: Path, target: Path) -> None:
    """Refuses to replace a folder by itself, or to write into it."""
    if source.exists() and target.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"The target {target} is the source {source} or lies in it; choose another."
        )

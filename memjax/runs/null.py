"""What stands for a model's unconditional prediction: its own null condition, or a substitute."""

from typing import Any

import jax
import numpy as np

from memjax.core.guidance import CompanionNull, RandomNull
from memjax.core.names import COMPANION, TRAINED
from memjax.runs.model import Model, load_model

RANDOM_CONDITIONS = 8


def is_unconditional(model: Model) -> bool:
    """Returns whether a run was trained without any condition (``train.cond_dropout=1``)."""
    return model.run is not None and model.config["train"]["cond_dropout"] >= 1.0


def null_condition(
    model: Model,
    kind: str = TRAINED,
    *,
    companion: str = "",
    seed: int = 0,
    dtype: str | None = None,
) -> Any:
    """Returns what stands for the null condition; None where none was trained nor asked for.

    Args:
        model: The opened model.
        kind: ``trained``; ``random_labels``, the mean prediction over eight random conditions; or
            ``companion``, the prediction of another model.
        companion: Folder, file or hub id of that model.
        seed: Draws the random conditions.
        dtype: Type the companion computes in.

    Raises:
        ValueError: If the model has no conditions, or the companion is missing or does not fit.
    """
    if companion and kind != COMPANION:
        raise ValueError(f"--companion={companion} is read with --null=companion alone: give both.")
    if kind == TRAINED:
        return model.bundle.null_cond
    if is_unconditional(model):
        raise ValueError(
            f"--null={kind} was given for {model.name}, which was trained without conditions "
            "(train.cond_dropout=1): there is no prompt to compare with, leave --null out."
        )
    return _companion(model, companion, dtype) if kind == COMPANION else _random(model, seed)


def with_null(model: Model, kind: str = TRAINED, **asked: Any) -> Model:
    """Returns the model with what stands for its null condition, named in ``bundle.info['null']``.

    Args:
        model: The opened model.
        kind: See :func:`null_condition`.
        **asked: Its other arguments.
    """
    null = null_condition(model, kind, **asked)
    if kind == TRAINED:
        return model
    info = {**model.bundle.info, "null": kind}
    return model._replace(bundle=model.bundle._replace(null_cond=null, info=info))


def _random(model: Model, seed: int) -> RandomNull:
    rng = np.random.default_rng(seed)
    sizes = model.label_space.sizes
    ids = np.stack([rng.integers(1, s, RANDOM_CONDITIONS) for s in sizes], axis=1)
    return RandomNull(model.network.encode_fn(model.bundle.params, ids.astype(np.int32)))


def _companion(model: Model, path: str, dtype: str | None) -> CompanionNull:
    if not path:
        raise ValueError("--companion must be given with --null=companion: an unconditional model.")
    other = load_model(path, dtype)
    if other.bundle.sample_shape != model.bundle.sample_shape:
        raise ValueError(
            f"--companion={path} makes images of shape {other.bundle.sample_shape}, expected "
            f"{model.bundle.sample_shape}."
        )
    null = other.bundle.null_cond
    if other.run is not None:
        null = other.network.encode_fn(other.bundle.params, other.label_space.null(1))
    return CompanionNull(jax.tree_util.Partial(other.bundle.eps_fn, other.bundle.params), null)

"""The network of a run: label space and sizes in, pure functions out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from memjax.core.process import PREDICTIONS
from memjax.core.schedules import NoiseSchedule, ScheduleSpec
from memjax.core.types import Array, Bundle, Cond, EpsFn, Params, PromptRow
from memjax.data.labels.captions import labels_from_caption
from memjax.data.records import LabelSpace
from memjax.models.adapters import EpsFromV, LinenEps
from memjax.models.unet.denoiser import Denoiser
from memjax.models.unet.network import UNetConfig


@dataclasses.dataclass(frozen=True)
class LinenEncode:
    """``(params, labels) → cond`` of a :class:`Denoiser`; hashable by value."""

    module: Denoiser

    def __call__(self, params: Params, labels: Int[Array, "b l"]) -> Cond:
        return self.module.apply({"params": params}, labels, method="encode")


class Network(NamedTuple):
    """A network as training, sampling and every detector see it.

    Attributes:
        module: The Linen module.
        spec: Its noise schedule's recipe.
        schedule: The schedule's arrays.
        predict_fn: ``(params, x_t, t, cond)`` → the raw prediction, ε or v.
        eps_fn: The same as ε.
        encode_fn: ``(params, labels)`` → condition.
    """

    module: Denoiser
    spec: ScheduleSpec
    schedule: NoiseSchedule
    predict_fn: EpsFn
    eps_fn: EpsFn
    encode_fn: LinenEncode


def build_network(
    label_space: LabelSpace,
    *,
    size: int,
    channels: int = 1,
    prediction: str = "eps",
    schedule: Mapping[str, Any] | None = None,
    unet: Mapping[str, Any] | None = None,
) -> Network:
    """Builds the U-Net and label encoder of a run; nothing is compiled yet.

    Args:
        label_space: What it is conditioned on.
        size: Height and width of the images.
        channels: Channels of the images.
        prediction: ``eps`` or ``v``.
        schedule: Arguments of :class:`ScheduleSpec`.
        unet: Arguments of :class:`UNetConfig` (channels of the image excepted).

    Raises:
        ValueError: If a value does not fit, naming it.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}, expected one of {PREDICTIONS}.")
    lists: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in (unet or {}).items()
    }
    config = UNetConfig(in_channels=channels, out_channels=channels, **lists)
    module = Denoiser(config, label_space.sizes, size, label_space.tables)
    spec = ScheduleSpec(**(schedule or {}))
    raw = LinenEps(module, "denoise")
    eps_fn = raw if prediction == "eps" else EpsFromV(raw, spec)
    return Network(module, spec, spec.build(), raw, eps_fn, LinenEncode(module))


def prompt_ids(rows: Sequence[PromptRow], space: LabelSpace) -> Int[np.ndarray, "p l"]:
    """Turns prompt rows into label ids.

    Args:
        rows: Each with ``labels`` (a mapping) or ``caption`` (text, see
            :func:`memjax.data.labels.captions.labels_from_caption`).
        space: The model's label space.

    Raises:
        ValueError: Naming the row and what is wrong with it.
    """
    ids = []
    for number, row in enumerate(rows, start=1):
        try:
            ids.append(space.encode(prompt_labels(row, space)))
        except ValueError as error:
            raise ValueError(f"prompt {row.get('id', number)}: {error}") from error
    return np.asarray(ids, np.int32).reshape(len(rows), space.num_tokens)


def prompt_labels(row: PromptRow, space: LabelSpace | None = None) -> Mapping[str, Any]:
    """Returns a row's labels, read from its caption where it has no ``labels``.

    Args:
        row: A prompt row.
        space: The model's label space, which says how a caption is read (None: a radiograph's).
    """
    if row.get("labels") is not None:
        if not isinstance(row["labels"], Mapping):
            raise ValueError(
                f"labels is {row['labels']!r}, expected names and values such as "
                '{"Edema": "positive", "view": "AP"}.'
            )
        return row["labels"]
    if row.get("caption"):
        return labels_from_caption(str(row["caption"]), space)
    raise ValueError("the row has neither 'labels' nor 'caption': give one of them.")


def make_bundle(
    network: Network,
    params: Params,
    label_space: LabelSpace,
    *,
    cond_dropout: float,
    info: Mapping[str, Any],
) -> Bundle:
    """Returns what every command works on.

    Args:
        network: Of :func:`build_network`.
        params: Weights (EMA weights for sampling).
        label_space: The model's label space.
        cond_dropout: The condition dropout it was trained with. At 0 no null condition was
            trained, at 1 no condition: the bundle then has no ``null_cond``.
        info: Provenance.
    """
    null_ids = jnp.asarray(label_space.null(1))

    def encode(rows: Sequence[PromptRow]) -> Cond:
        ids = prompt_ids(rows, label_space)
        if cond_dropout >= 1.0:
            ids = np.zeros_like(ids)
        return network.encode_fn(params, jnp.asarray(ids))

    null = network.encode_fn(params, null_ids) if 0.0 < cond_dropout < 1.0 else None
    return Bundle(
        eps_fn=network.eps_fn,
        params=params,
        schedule=network.schedule,
        sample_shape=network.module.sample_shape,
        encode=encode,
        null_cond=null,
        decode=lambda x: np.clip(x, -1.0, 1.0),
        describe=lambda row: ["BOS", *label_space.describe(prompt_labels(row, label_space))],
        info=info,
    )

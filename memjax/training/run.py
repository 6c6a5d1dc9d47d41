"""A run folder: what is in it, and how to open it again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memjax.core.names import RUN_FILE
from memjax.core.types import Bundle
from memjax.data.records import LabelSpace, Slot
from memjax.runtime.files import write_bytes
from memjax.training.checkpoint import load_params
from memjax.training.network import Network, build_network, make_bundle

_FORMAT = 1


class Run(NamedTuple):
    """An opened run.

    Attributes:
        path: Its folder.
        config: The configuration it was trained with.
        label_space: What it is conditioned on.
        network: Its network.
        bundle: EMA weights and functions, ready for every command.
        step: Checkpoint step of the weights.
        record: All of ``run.json``.
    """

    path: Path
    config: dict[str, Any]
    label_space: LabelSpace
    network: Network
    bundle: Bundle
    step: int
    record: dict[str, Any]


def write_run_file(
    workdir: Path, config: Mapping[str, Any], label_space: LabelSpace, **extra: Any
) -> None:
    """Writes ``run.json``: configuration, label space and whatever else should be kept."""
    record = {
        "format": _FORMAT,
        "config": dict(config),
        "label_space": slots_to_json(label_space),
        **extra,
    }
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_bytes(workdir / RUN_FILE, text.encode())


def read_run_file(path: str | Path) -> dict[str, Any]:
    """Reads ``run.json``.

    Raises:
        ValueError: If the folder is no run, or the file cannot be read.
    """
    file = Path(path) / RUN_FILE
    if not file.is_file():
        raise ValueError(
            f"{path} is not a memjax run (it holds no {RUN_FILE}): pass the --workdir of "
            "`memjax train` or `memjax demo`."
        )
    try:
        record = json.loads(file.read_text())
        if record["format"] != _FORMAT or not label_space_of(record).slots:
            raise KeyError("format")
        for section in ("data", "model", "diffusion", "train", "sampling", "audit"):
            dict(record["config"][section])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged or of another version ({error}): restore it from a copy, or "
            "start the same `memjax train` command again, which rewrites it."
        ) from error
    return record


def label_space_of(record: Mapping[str, Any]) -> LabelSpace:
    """Returns the label space kept in ``run.json``."""
    words: dict[str, tuple[str, ...]] = {}
    slots = []
    for name, values, *table in record["label_space"]:
        kept = words.setdefault(table[0], tuple(values)) if table else tuple(values)
        slots.append(Slot(name, kept, *table))
    return LabelSpace(tuple(slots))


def slots_to_json(space: LabelSpace) -> list[list[Any]]:
    """Returns ``[name, values]`` a slot, and ``[name, values, table]`` where slots share a table.

    The values of a shared table stand at its first slot alone.
    """
    seen: set[str] = set()
    rows: list[list[Any]] = []
    for slot in space.slots:
        if not slot.table:
            rows.append([slot.name, list(slot.values)])
            continue
        rows.append([slot.name, [] if slot.table in seen else list(slot.values), slot.table])
        seen.add(slot.table)
    return rows


def network_of(config: Mapping[str, Any], label_space: LabelSpace) -> Network:
    """Builds the network a configuration describes."""
    diffusion = dict(config["diffusion"])
    prediction = diffusion.pop("prediction")
    return build_network(
        label_space,
        size=config["data"]["size"],
        channels=config["data"]["channels"],
        prediction=prediction,
        schedule=diffusion,
        unet=config["model"],
    )


def open_run(path: str | Path, *, ema: bool = True, step: int | None = None) -> Run:
    """Opens a run with the weights of its newest good checkpoint.

    Args:
        path: The run's folder.
        ema: Take the moving average of the weights (default) or the last weights.
        step: Open the checkpoint of this step instead.

    Raises:
        ValueError: If the folder is no run or holds no checkpoint that can be trusted.
    """
    record = read_run_file(path)
    config, label_space = record["config"], label_space_of(record)
    if "fine_tune" in config:
        raise ValueError(
            f"{path} is a fine-tuning of another model: open its folder 'pipeline', which is "
            "written at the end of the training."
        )
    restored = load_params(path, ema=ema, step=step)
    network = network_of(config, label_space)
    bundle = make_bundle(
        network,
        restored.params,
        label_space,
        cond_dropout=config["train"]["cond_dropout"],
        info={
            "kind": "memjax run",
            "run": Path(path).name,
            "checkpoint_step": restored.step,
            "weights": "ema" if ema else "last",
            "seed": config["seed"],
            "skipped_checkpoints": [list(item) for item in restored.skipped],
        },
    )
    return Run(Path(path), config, label_space, network, bundle, restored.step, record)

"""A run folder: what is in it, and how to open it again.

``run.json`` says in words what the sealed configuration of each checkpoint says, and how images are
sampled and audited, which may change. Where the two differ about the weights, the seal is right.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.core.names import RUN_FILE
from memjax.core.types import Bundle
from memjax.data.records import LabelSpace, Slot
from memjax.runtime.json import loads, write_json
from memjax.training.checkpoint import RestoredParams, load_params
from memjax.training.network import Network, build_network, make_bundle
from memjax.training.seal import LABELS, as_of_now, config_changes

_FORMAT = 1
_SECTIONS = ("data", "model", "diffusion", "train", "sampling", "audit")
# Where data lie and how they are read may differ from machine to machine.
_PLACES = ("root", "tfds_dir", "in_memory_rows", "num_workers", "check", "strict", "on_corrupt")
_KEPT = ("cond_dropout",)  # of the section train: what an opened run depends on


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
        LABELS: slots_to_json(label_space),
        **extra,
    }
    write_json(workdir / RUN_FILE, record, sort_keys=True)


def read_run_file(path: str | Path) -> dict[str, Any]:
    """Reads ``run.json``.

    Raises:
        ValueError: If the folder is no run, or the file cannot be read.
    """
    file = Path(path) / RUN_FILE
    if not file.exists():
        raise ValueError(
            f"{path} is not a memjax run (it holds no {RUN_FILE}): pass the --workdir of "
            "`memjax train` or `memjax demo`."
        )
    try:
        record = loads(file.read_bytes())
        if record["format"] != _FORMAT:
            raise ValueError(f"format is {record['format']!r:.40}, expected {_FORMAT}")
        if not label_space_of(record).slots:
            raise ValueError(f"{LABELS} is empty")
        record["data"] = dict(record.get("data", {}))
        for section in _SECTIONS:
            record["config"][section] = dict(record["config"][section])
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror}): make it readable, or start the same "
            "`memjax train` command again, which rewrites it."
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is damaged or of another version ({error}): restore it from a copy, or "
            "start the same `memjax train` command again, which rewrites it."
        ) from error
    return record


def require_sealed(
    file: Path, record: Mapping[str, Any], step: int, sealed: Mapping[str, Any]
) -> None:
    """Refuses a ``run.json`` that does not say what is sealed in the checkpoint.

    Where data lie and how they are read may differ, and so may how the training goes on, but for
    the share of dropped conditions.

    Args:
        file: To be named.
        record: All of it.
        step: The checkpoint's.
        sealed: The checkpoint's configuration; what its version did not seal is not compared.

    Raises:
        ValueError: Naming the fields that differ, and both values.
    """
    said = {**record["config"], LABELS: record.get(LABELS)}
    # A fine-tuning's section names its base by content there, and by its place here.
    then = as_of_now({k: v for k, v in sealed.items() if k != "fine_tune"}, said)
    now = as_of_now({name: said.get(name) for name in then}, {})
    for section, names, listed in (("data", _PLACES, True), ("train", _KEPT, False)):
        for values in (then, now):
            if isinstance(values.get(section), Mapping):
                kept = {k: v for k, v in values[section].items() if (k in names) is not listed}
                values[section] = kept
    changes = config_changes(then, now, "{name} is {new}, sealed was {old}")
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise ValueError(
            f"{file} does not fit the checkpoint of step {step} ({'; '.join(changes[:5])}{more}): "
            "put the sealed values back, or start the same `memjax train` command again, which "
            f"rewrites {file.name}."
        )


def label_space_of(record: Mapping[str, Any]) -> LabelSpace:
    """Returns the label space kept in ``run.json``."""
    words: dict[str, tuple[str, ...]] = {}
    slots = []
    for name, values, *table in record[LABELS]:
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


def _require_shapes(file: Path, network: Network, restored: RestoredParams) -> None:
    wanted = network.module.init_params(jax.random.key(0))
    if jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, restored.params):
        raise ValueError(
            f"{file} describes another network than the checkpoint of step {restored.step} holds: "
            "restore it from a copy, or start the same `memjax train` command again, which "
            "rewrites it."
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
    file = Path(path) / RUN_FILE
    check = partial(require_sealed, file, record)
    restored = load_params(path, ema=ema, step=step, check=check)
    # How the training goes on may have changed since the weights were made.
    config["train"] |= restored.config.get("train", {})
    try:
        network = network_of(config, label_space)
        if LABELS not in restored.config:  # of a version that did not seal them
            _require_shapes(file, network, restored)
        cond_dropout = float(config["train"]["cond_dropout"])
        seed = int(config["seed"])
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} holds values of which no network can be built ({type(error).__name__}: "
            f"{error}): restore it from a copy, or start the same `memjax train` command again, "
            "which rewrites it."
        ) from error
    bundle = make_bundle(
        network,
        restored.params,
        label_space,
        cond_dropout=cond_dropout,
        info={
            "kind": "memjax run",
            "run": Path(path).name,
            "checkpoint_step": restored.step,
            "weights": "ema" if ema else "last",
            "seed": seed,
            "skipped_checkpoints": [list(item) for item in restored.skipped],
        },
    )
    return Run(Path(path), config, label_space, network, bundle, restored.step, record)

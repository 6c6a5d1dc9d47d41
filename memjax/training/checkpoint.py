"""Checkpoints: saved in the background, sealed by checksum, verified before they are trusted.

Whether there is room for one, and whether it fits a state, is asked before it is needed and
answered by name.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from memjax.core.types import Params
from memjax.runtime.hosts import agreed as agreed_number
from memjax.runtime.hosts import is_first
from memjax.runtime.json import loads
from memjax.training.seal import (
    CONFIG,
    can_be_mended,
    fault,
    file_fault,
    is_sealed,
    read_manifest,
    seal,
)

_MARGIN = 1.05  # names, manifests, a file system's blocks
FOLDER = "checkpoints"
SET_ASIDE = "checkpoints_set_aside"
PathLike = str | os.PathLike[str]
Skipped = list[tuple[int, str]]


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(
        str(getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", entry))))
        for entry in path
    )


def _wanted(state: PyTree) -> dict[str, str]:
    def describe(leaf: Any) -> str:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return "key" if key else f"{leaf.dtype}{list(leaf.shape)}"

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): describe(leaf) for path, leaf in leaves}


def differences(saved: PyTree, state: PyTree) -> list[str]:
    """Returns one ``name: saved, expected`` per leaf that differs in name, dtype or shape.

    Args:
        saved: Orbax's metadata of the checkpoint: leaves with ``name``, ``dtype`` and ``shape``.
        state: Arrays or ``ShapeDtypeStruct``s.
    """
    found = {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(saved)}
    wanted = _wanted(state)
    return [
        f"{name}: saved {found.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
        and not (wanted.get(name) == "key" and found.get(name, "").startswith("uint32"))
    ]


def state_bytes(state: PyTree) -> int:
    """Returns the bytes of a state (or of its shapes), all processes together."""

    def size(leaf: Any) -> int:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 16
        return int(leaf.size) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(state))


def require_space(folder: str | os.PathLike[str], state: PyTree, checkpoints: int = 1) -> None:
    """Refuses to start what would fill the disk; buckets have no end and are not asked.

    Args:
        folder: Where checkpoints go; it may not exist yet.
        state: What is saved.
        checkpoints: How many must fit beside each other.

    Raises:
        ValueError: With the bytes that are free and needed.
    """
    if "://" in os.fspath(folder):
        return
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, int(checkpoints * _MARGIN * state_bytes(state))
    if free < needed:
        raise ValueError(
            f"{folder} has {_amount(free)} free, expected at least {_amount(needed)} for "
            f"{checkpoints} checkpoint{'s' if checkpoints > 1 else ''}: free space, or choose "
            "another workdir."
        )


def _amount(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


class RestoredState(NamedTuple):
    """What :func:`restore_latest` found.

    Attributes:
        state: The state, or None if there is no good checkpoint.
        step: Its step, or None.
        skipped: ``(step, reason)`` of newer checkpoints that could not be trusted.
        config: The configuration saved with it.
    """

    state: PyTree | None
    step: int | None
    skipped: Skipped
    config: dict[str, Any]


class RestoredParams(NamedTuple):
    """What :func:`load_params` found; the fields are those of :class:`RestoredState`."""

    params: Params
    step: int
    config: dict[str, Any]
    skipped: Skipped


def checkpoint_steps(directory: PathLike) -> list[int]:
    """Returns the steps that have a folder, newest first, trusted or not."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    try:
        names = [p.name for p in directory.iterdir() if p.is_dir() and p.name.isdecimal()]
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be read ({error.strerror}): make it readable."
        ) from None
    return sorted((int(name) for name in names), reverse=True)


def newest_good_step(directory: PathLike) -> tuple[int | None, Skipped]:
    """Walks from the newest checkpoint to the oldest until one matches its checksums.

    Returns:
        The step, or None if there is none, and ``(step, reason)`` of those passed over.
    """
    skipped: Skipped = []
    for step in checkpoint_steps(directory):
        reason = fault(Path(directory) / str(step))
        if reason is None:
            return step, skipped
        skipped.append((step, reason))
    return None, skipped


def _read_config(folder: Path) -> dict[str, Any]:
    return loads((folder / CONFIG).read_bytes())


def _agreed_step(directory: PathLike) -> tuple[int | None, Skipped]:
    """Lets process 0 verify, and all processes take the step it found."""
    step, skipped = newest_good_step(directory) if is_first() else (None, [])
    agreed = agreed_number(-1 if step is None else step)
    return None if agreed < 0 else agreed, skipped


def restore_latest(directory: PathLike, abstract_state: PyTree) -> RestoredState:
    """Restores the newest checkpoint that matches its checksums.

    Args:
        directory: The folder that holds one folder per step.
        abstract_state: A state (or its ``ShapeDtypeStruct``s) of the same structure; arrays are
            restored with its shardings.

    Raises:
        ValueError: If a good checkpoint holds another structure or other shapes.
    """
    step, skipped = _agreed_step(directory)
    if step is None:
        return RestoredState(None, None, skipped, {})
    folder = Path(directory).absolute() / str(step)
    saved = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
    if differing := differences(saved, abstract_state):
        raise ValueError(
            f"the checkpoint of step {step} does not fit this run ({'; '.join(differing[:5])}): "
            "use the configuration it was made with, or another workdir."
        )
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_state)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / "state", target)
    _require_own_step(folder, getattr(state, "step", step))
    return RestoredState(state, step, skipped, _read_config(folder))


def _require_own_step(folder: Path, step: Any = None) -> None:
    """Refuses a renamed folder of a version whose seal did not name the step."""
    if "step" in read_manifest(folder):
        return
    held = int(_restore_part(folder / "state", "step") if step is None else step)
    if str(held) != folder.name:
        raise ValueError(
            f"{folder} is the checkpoint of step {held}, so its folder was renamed: rename it to "
            f"{held}."
        )


def load_params(
    run_dir: PathLike,
    ema: bool = True,
    step: int | None = None,
    check: Callable[[int, dict[str, Any]], None] = lambda step, config: None,
) -> RestoredParams:
    """Loads the weights of a run from its newest good checkpoint, without its optimizer.

    Args:
        run_dir: The run's workdir.
        ema: The moving average (default) or the last weights.
        step: A certain checkpoint instead of the newest one.
        check: Given step and configuration before the weights are read; it may refuse them.

    Raises:
        ValueError: If the folder holds no checkpoint that can be trusted, or not that one.
    """
    directory = Path(run_dir).absolute() / FOLDER
    skipped: Skipped = []
    if step is None:
        step, skipped = newest_good_step(directory)
    else:
        _require_step(directory, step)
    if step is None:
        found = "; ".join(f"step {s}: {reason}" for s, reason in skipped) or "none found"
        whole = any(can_be_mended(reason) for _, reason in skipped)
        way_out = (
            "put that right" if whole else "pass the workdir of a run that has saved at least once"
        )
        raise ValueError(f"{run_dir} holds no good checkpoint ({found}): {way_out}.")
    folder = directory / str(step)
    config = _read_config(folder)
    check(step, config)
    name = "ema_params" if ema else "params"
    params = _restore_part(folder / "state", name)
    _require_own_step(folder)
    return RestoredParams(params, step, config, skipped)


def _require_step(directory: Path, step: int) -> None:
    steps = checkpoint_steps(directory)
    reason = fault(directory / str(step)) if step in steps else "not there"
    if reason is not None:
        raise ValueError(
            f"checkpoint {step} of {directory.parent} cannot be used ({reason}): choose one of "
            f"{sorted(steps)}."
        )


def _restore_part(folder: Path, name: str) -> PyTree:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
        target = {
            name: jax.tree.map(
                lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), tree[name]
            )
        }
        arguments = ocp.args.PyTreeRestore(
            item=target,
            partial_restore=True,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        )
        return checkpointer.restore(folder, args=arguments)[name]


def set_aside(directory: PathLike, skipped: Skipped) -> None:
    """Moves checkpoints that failed verification out of the way of the saves to come.

    Those whose save was cut short hold nothing and are removed; those whose content changed or
    cannot be read are kept for inspection in the sibling folder ``checkpoints_set_aside``.
    """
    directory = Path(directory)
    for step, reason in skipped:
        folder = directory / str(step)
        if not can_be_mended(reason) and not is_sealed(folder):
            shutil.rmtree(folder)
            continue
        target = directory.parent / SET_ASIDE / str(step)
        target.parent.mkdir(exist_ok=True)
        attempt = 0
        while target.exists():
            attempt += 1
            target = target.with_name(f"{step}-{attempt}")
        try:
            folder.rename(target)
        except OSError as error:
            raise ValueError(
                f"{folder} can be neither used nor moved ({reason}; {error.strerror}): make it "
                "readable, or move it away."
            ) from error


def newest_config(run_dir: PathLike) -> tuple[int, dict[str, Any]] | None:
    """Returns step and configuration of the newest checkpoint that has one, weights unread.

    None where there is none, or where it cannot be trusted.
    """
    for step in checkpoint_steps(Path(run_dir) / FOLDER):
        folder = Path(run_dir).absolute() / FOLDER / str(step)
        try:
            seals = read_manifest(folder)["files"][CONFIG.as_posix()]
            if file_fault(folder / CONFIG, "", seals["bytes"], seals["sha256"]) is None:
                return step, _read_config(folder)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


class CheckpointWriter:
    """Saves states in the background and seals each one once it is complete.

    A step exists for :func:`restore_latest` only after its seal, which is written last.
    """

    def __init__(
        self, directory: PathLike, config: Mapping[str, Any] | None = None, max_to_keep: int = 3
    ):
        """Opens (or makes) a folder of checkpoints.

        Args:
            directory: The folder; one folder per step will stand in it.
            config: JSON-able configuration saved with every checkpoint.
            max_to_keep: How many to keep; at least 2, so that there is one to fall back on.
        """
        if max_to_keep < 2:
            raise ValueError(
                f"max_to_keep is {max_to_keep}, expected at least 2: "
                "a damaged checkpoint needs an older one to fall back on."
            )
        self._directory = Path(directory).absolute()
        self._config = dict(config or {})
        self._sealer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep, cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving ``state``; it may be donated as soon as this returns."""
        self.wait()
        require_space(self._directory, state)
        self._step = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(self._config)
                ),
                force=True,
            )
        except Exception as error:
            raise self._unsaved(error) from error
        self._sealer = threading.Thread(target=self._seal, args=(step,), daemon=True)
        self._sealer.start()

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if is_first():
                seal(self._directory / str(step))
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Waits until the last save is complete and sealed; raises what went wrong with it."""
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._unsaved(error) from error

    def _unsaved(self, error: BaseException) -> OSError:
        newest, _ = newest_good_step(self._directory)
        have = "none is there yet" if newest is None else f"the newest good one is step {newest}"
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return OSError(
            f"the checkpoint of step {self._step} could not be written to {self._directory} "
            f"({said}); {have}: make room there, then start the same command again."
        )

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the cluster is about to take this machine (all processes agree)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits and closes; the last checkpoint is complete only after this."""
        try:
            self.wait()
        except BaseException:
            with contextlib.suppress(Exception):  # it says the same again, at length
                self._manager.close()
            raise
        self._manager.close()

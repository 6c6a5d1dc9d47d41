"""The mesh of devices: its axes, and how rows of a batch lie over them.

Rows (examples, prompts) go over ``data`` and ``fsdp`` together; ``tensor`` splits the insides of a
layer. Axes are always ``Auto``: the compiler places what is not said.

References:
    Xu et al. 2021, arXiv 2105.04663 (GSPMD); Rajbhandari et al. 2020, arXiv 1910.02054 (ZeRO, the
    ``fsdp`` axis); Shoeybi et al. 2019, arXiv 1909.08053 (the ``tensor`` axis).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

TENSOR = "tensor"
ROW_AXES = ("data", "fsdp")
AXES = (*ROW_AXES, TENSOR)
ROWS = PartitionSpec(ROW_AXES)


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    *,
    slices: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Returns the mesh ``[data, fsdp, tensor]``.

    Args:
        data: Devices along ``data``, all slices together; -1 takes what the other axes leave.
        fsdp: Devices over which each weight is split.
        tensor: Devices over which attention heads and feed-forward layers are split.
        slices: Groups of devices joined by the slower network (TPU slices; processes where
            devices know of no slice). ``data`` goes across them, the other axes never do.
        devices: The devices; by default all of the run, every process's.

    Raises:
        ValueError: If a number is impossible, or their product is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = _shape(data, fsdp, tensor, slices, len(devices))
    if slices > 1:
        grid = _across_slices(shape, slices, devices)
    elif devices[0].platform == "cpu":
        grid = np.asarray(devices, object).reshape(shape)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@contextlib.contextmanager
def announced(mesh: Mesh | None) -> Iterator[None]:
    """Tells what is traced inside which mesh its arrays lie on; None: no mesh.

    The compiler splits everything but hand-written kernels: those split themselves over this mesh.
    """
    if mesh is None:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def _shape(data: int, fsdp: int, tensor: int, slices: int, count: int) -> tuple[int, int, int]:
    for name, value in {"fsdp": fsdp, "tensor": tensor, "slices": slices}.items():
        if value < 1:
            raise ValueError(f"parallel.{name} is {value}, expected at least 1.")
    if data != -1 and data < 1:
        raise ValueError(f"parallel.data is {data}, expected at least 1, or -1 for what is left.")
    data = count // (fsdp * tensor) if data == -1 else data
    if data * fsdp * tensor != count:
        raise ValueError(
            f"parallel.data={data}, fsdp={fsdp}, tensor={tensor} need {data * fsdp * tensor} "
            f"devices, {count} are there: give numbers whose product is {count} (data=-1 takes "
            "what the others leave)."
        )
    if data % slices:
        raise ValueError(
            f"parallel.slices={slices} does not divide data={data}: each slice holds whole copies "
            "of the weights, so data must be a multiple of slices."
        )
    return data, fsdp, tensor


def _across_slices(shape: tuple[int, int, int], slices: int, devices: Sequence[Any]) -> np.ndarray:
    knows = getattr(devices[0], "slice_index", None) is not None
    groups = {d.slice_index if knows else d.process_index for d in devices}
    if len(groups) != slices:
        what = "slices" if knows else "processes"
        raise ValueError(
            f"parallel.slices is {slices}, but the devices lie in {len(groups)} {what}: give "
            f"{len(groups)}, or 1 to leave their places out of account."
        )
    inner = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inner,
        (slices, 1, 1),
        devices=devices,
        process_is_granule=not knows,
        allow_split_physical_axes=True,
    )


def prompts_mesh(local: bool = False, most_of_cpu: int | None = None) -> Mesh | None:
    """Returns a mesh that spreads prompts over every device; None where there is but one.

    Args:
        local: Take this process's devices alone.
        most_of_cpu: How many devices of a CPU to take at most, where there is one process.
    """
    devices = jax.local_devices() if local else jax.devices()
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[:most_of_cpu]
    return make_mesh(devices=devices) if len(devices) > 1 else None


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Returns over how many shards rows are spread."""
    return math.prod(mesh.shape[name] for name in ROW_AXES)


def rows_over(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose leading axis is examples or prompts."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Puts host arrays that every process holds whole onto the devices, each its own part.

    Args:
        tree: Arrays; typed keys too.
        shardings: One sharding, or a tree of them.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_place, tree, shardings)


def _place(leaf: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        data = _place(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fetch(tree: PyTree) -> PyTree:
    """Returns arrays as NumPy arrays, those spread over processes whole in each of them."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_fetch, tree)


def _fetch(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def my_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " k"] | None:
    """Returns the places of a global batch whose rows this process's devices hold; None: all.

    Raises:
        ValueError: If the batch cannot be spread evenly.
    """
    check_rows(mesh, batch_size)
    if jax.process_count() == 1:
        return None
    places = rows_over(mesh).addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[index] for index in places.values() if index]))


def check_rows(mesh: Mesh, batch_size: int, parts: int = 1) -> None:
    """Refuses a batch that does not lie evenly over the mesh, in parts one after the other.

    Raises:
        ValueError: Naming the numbers and the multiple that is needed.
    """
    if parts < 1:
        raise ValueError(f"parallel.accumulate is {parts}, expected at least 1.")
    needed = row_shards(mesh) * parts
    if batch_size % needed:
        shape = ", ".join(f"{name}={mesh.shape[name]}" for name in ROW_AXES)
        raise ValueError(
            f"train.batch_size is {batch_size}, expected a multiple of {needed} ({shape}, "
            f"accumulate={parts}): change it or the mesh."
        )


def place_rows(
    tree: PyTree, mesh: Mesh, rows: Int[np.ndarray, " k"] | None, batch_size: int
) -> PyTree:
    """Makes global arrays of the rows this process has; arrays of another length go whole.

    Args:
        tree: NumPy arrays: with this process's rows in front, or whole in every process.
        mesh: The devices.
        rows: From :func:`my_rows`.
        batch_size: Rows of the global batch.
    """
    mine = batch_size if rows is None else len(rows)

    def put(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        if leaf.shape[:1] != (mine,):
            return _place(leaf, replicated(mesh))
        if rows is None:
            return jax.device_put(leaf, rows_over(mesh))

        def part(index: Any) -> np.ndarray:
            return leaf[np.searchsorted(rows, np.arange(batch_size)[index[0]])]

        shape = (batch_size, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, rows_over(mesh), part)

    return jax.tree.map(put, tree)


def pad_rows(tree: PyTree, multiple: int) -> PyTree:
    """Repeats the last row until the number of rows is a multiple."""

    def padded(leaf: Any) -> Any:
        missing = -leaf.shape[0] % multiple
        if not missing:
            return leaf
        return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(padded, tree)

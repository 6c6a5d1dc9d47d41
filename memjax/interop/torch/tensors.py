"""What a PyTorch pickle may name, and the tensors it describes, with every bound checked.

A tensor is a window into a storage, a flat run of numbers elsewhere in the file: an offset, a shape
and strides. None of the three is believed before it has been checked against the storage's size.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from memjax.interop.torch.pickle_data import (
    Instance,
    Name,
    RefusedError,
    Rules,
    brief,
    checked_pairs,
)

MAX_TENSORS = 200_000
MAX_DIMENSIONS = 16
_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class Storage(NamedTuple):
    """A flat run of ``size`` numbers in the file."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def num_bytes(self) -> int:
        """Bytes it takes."""
        return self.size * self.dtype.itemsize


class StridedTensor(NamedTuple):
    """A window into a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def torch_rules(storages: dict[str, Storage]) -> Rules:
    """Returns what a weights pickle may do; the storages it refers to are noted by key."""
    return Rules(_allow, _call, functools.partial(_reference, storages))


def _allow(name: Name) -> None:
    if str(name) in _CALLS or name.module.startswith(_LAYERS) or _storage_dtype(name) is not None:
        return
    raise RefusedError(
        f"names {name}, which is neither a tensor nor a layer, so it was not read further"
    )


def _storage_dtype(name: Any) -> np.dtype | None:
    if type(name) is not Name or name.module not in ("torch", "torch.storage", "torch.cuda"):
        return None
    return _DTYPES.get(name.attribute)


def _call(name: Name, arguments: tuple) -> Any:
    function = _CALLS.get(str(name))
    if function is None:
        raise RefusedError(f"calls {name}, which no weights file needs, so it was not read further")
    return function(*arguments)


def _reference(storages: dict[str, Storage], identifier: Any) -> Any:
    """``('storage', type, key, device, size)``, or ``('module', class, …)`` in older files."""
    if type(identifier) is not tuple or len(identifier) < 2:
        raise RefusedError("refers to something that is not a storage")
    if identifier[0] == "module":
        return identifier[1]
    if identifier[0] != "storage" or len(identifier) < 5:
        raise RefusedError("refers to something that is not a storage")
    _, kind, key, _, size = identifier[:5]
    dtype = _storage_dtype(kind)
    if dtype is None or type(key) is not str or type(size) is not int or size < 0:
        raise RefusedError(
            f"describes a storage {brief(key)} of type {brief(kind)} with {brief(size)} numbers"
        )
    if any(extra is not None for extra in identifier[5:]):
        raise RefusedError("holds storages inside others, as torch before 0.4 wrote them")
    storage = Storage(key, dtype, size)
    if storages.setdefault(key, storage) != storage:
        raise RefusedError(f"describes its storage {brief(key)} in two ways")
    return storage


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StridedTensor:
    """Checks that a window lies inside its storage and repeats nothing."""
    window = (
        f"a tensor of shape {brief(shape)}, strides {brief(strides)} and offset {brief(offset)}"
    )
    whole = all(_is_counts(numbers) for numbers in ((offset,), shape, strides))
    if type(storage) is not Storage or not whole or len(shape) != len(strides):
        raise RefusedError(f"describes {window}, which is none")
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count *= length
        last += (length - 1) * stride
    if count > storage.size or (count and last >= storage.size):
        raise RefusedError(f"describes {window} in a storage of {storage.size} numbers")
    return StridedTensor(storage, offset, tuple(shape), tuple(strides))


def _is_counts(numbers: Any) -> bool:
    if not isinstance(numbers, tuple | list) or len(numbers) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 2**40 for n in numbers)


def _inert(name: str) -> Callable[..., Instance]:
    return lambda *_: Instance(Name(*name.rsplit(".", 1)))


_LAYERS = ("__torch__.", "torch.nn.", "torchvision.", "torchxrayvision.")
# What whole modules carry besides weights (names of findings, thresholds, flags): empty stand-ins.
_IGNORED = (
    *("builtins.set", "__builtin__.set", "torch.device", "torch.jit._pickle.build_boollist"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
)
_CALLS: Mapping[str, Callable[..., Any]] = {
    **{name: _inert(name) for name in _IGNORED},
    "collections.OrderedDict": lambda items=(): checked_pairs(items),
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
}


def named_tensors(value: Any) -> dict[str, StridedTensor]:
    """Names the tensors in a pickle's value as ``state_dict()`` would.

    A dict that holds the weights under ``state_dict``, ``model_state_dict`` or ``model`` is opened.

    Raises:
        RefusedError: There are none, or they are nested without end.
    """
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if type(value) is dict and type(value.get(wrapper)) in (dict, Instance):
            value = value[wrapper]
    found: dict[str, StridedTensor] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    visited = 0
    while waiting:
        path, item = waiting.pop()
        visited += 1
        if visited > MAX_TENSORS or len(path) > 64:
            raise RefusedError("nests its modules too deeply or too often")
        if type(item) is StridedTensor:
            found[".".join(path)] = item
        else:
            waiting.extend(_children(path, item))
    if not found:
        raise RefusedError("holds no named weights (a frozen TorchScript graph has none)")
    return dict(sorted(found.items()))


def _children(path: tuple[str, ...], item: Any) -> list[tuple[tuple[str, ...], Any]]:
    state = item.state if type(item) is Instance else item
    if type(state) is not dict:
        return []
    inner = ("_parameters", "_buffers", "_modules")
    return [
        (path if key in inner and type(item) is Instance else (*path, str(key)), child)
        for key, child in state.items()
        if type(child) in (StridedTensor, Instance, dict)
    ]


def arrays(
    tensors: Mapping[str, StridedTensor], load: Callable[[Storage], np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns each tensor as a contiguous, read-only array.

    Args:
        tensors: Windows that :func:`torch_rules` has checked.
        load: Storage → its numbers.

    Raises:
        RefusedError: The tensors together are larger than four times their storages.
    """
    storages = {tensor.storage for tensor in tensors.values()}
    total = sum(np.prod(t.shape, dtype=float) * t.storage.dtype.itemsize for t in tensors.values())
    if total > 4 * sum(storage.num_bytes for storage in storages):
        raise RefusedError("describes more tensors than its storages can hold")
    loaded = {storage: load(storage) for storage in storages}
    return {name: _window(loaded[tensor.storage], tensor) for name, tensor in tensors.items()}


def _window(flat: np.ndarray, tensor: StridedTensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    strides = [s * flat.itemsize if n > 1 else 0 for n, s in zip(*tensor[2:], strict=True)]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view).reshape(tensor.shape)

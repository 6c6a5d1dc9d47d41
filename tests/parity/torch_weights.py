"""diffusers' U-Net weights, as NumPy arrays, to the Flax parameter tree and back."""

import re

import numpy as np
from flax import traverse_util


def torch_name(path: tuple[str, ...]) -> str:
    """Flax path → PyTorch key: ``…resnets_0/conv1/kernel`` → ``….resnets.0.conv1.weight``."""
    *modules, leaf = path
    name = ".".join(modules)
    name = re.sub(r"(blocks|resnets|attentions|samplers|to_out|net)_(\d+)", r"\1.\2", name)
    name = re.sub(r"(samplers\.0)_conv", r"\1.conv", name).replace("net.0_proj", "net.0.proj")
    return f"{name}.{'bias' if leaf == 'bias' else 'weight'}"


def flax_layout(weight: np.ndarray, ndim: int) -> np.ndarray:
    """OIHW or OI → HWIO or IO; a 1×1 convolution becomes a matrix where ``ndim`` is 2."""
    if ndim == 1:
        return weight
    if ndim == 2:
        return weight.reshape(weight.shape[:2]).T
    return weight.transpose(2, 3, 1, 0)


def flax_params(state_dict: dict[str, np.ndarray], template: dict) -> dict:
    """Returns ``template`` filled from ``state_dict``; every key must be used exactly once."""
    left = dict(state_dict)
    filled = {}
    for path, leaf in traverse_util.flatten_dict(template).items():
        weight = flax_layout(left.pop(torch_name(path)), leaf.ndim)
        if weight.shape != leaf.shape:
            raise ValueError(f"{'/'.join(path)} is {weight.shape}, expected {leaf.shape}.")
        filled[path] = np.ascontiguousarray(weight)
    if left:
        raise ValueError(f"weights without a place in the Flax network: {sorted(left)[:5]}.")
    return traverse_util.unflatten_dict(filled)


def torch_state(params: dict, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns the state dict, of the given ``shapes``, that :func:`flax_params` would read."""
    state = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[leaf.ndim]
        weight = np.asarray(leaf).transpose(order).reshape(shapes[torch_name(path)])
        state[torch_name(path)] = np.ascontiguousarray(weight)
    return state

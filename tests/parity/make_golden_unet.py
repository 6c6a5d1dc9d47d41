"""Writes models/unet/golden_unet.npz: ``python -m tests.parity.make_golden_unet``.

The file holds what diffusers' network returns for the weights and inputs of
``tests/models/unet/unet_cases.py``, and the versions that made it.
"""

import pathlib

import diffusers
import jax.numpy as jnp
import numpy as np
import torch

from memjax.models.unet.layers import depth_to_space
from tests.models.unet.unet_cases import CONFIGS, GOLDEN, inputs, weights
from tests.parity.diffusers_unet import diffusers_unet, run_torch
from tests.parity.torch_weights import torch_state

TARGET = pathlib.Path(__file__).parents[1] / "models" / "unet" / "golden_unet.npz"


def golden(name: str) -> np.ndarray:
    """Returns diffusers' output for one case, NHWC, patches unfolded."""
    config = CONFIGS[name]
    net = diffusers_unet(config, linear=name == "sd2")
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    state = torch_state(weights(config), shapes)
    net.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    with torch.no_grad():
        y = run_torch(net, config, *inputs(config)).permute(0, 2, 3, 1).numpy()
    return np.asarray(depth_to_space(jnp.asarray(y), config.patch_size))


def main() -> None:
    header = (
        f"tests/parity/make_golden_unet.py, diffusers {diffusers.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )
    np.savez_compressed(TARGET, header=header, **{name: golden(name) for name in GOLDEN})


if __name__ == "__main__":
    main()

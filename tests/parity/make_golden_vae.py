"""Writes tests/models/golden_vae.npz: ``python -m tests.parity.make_golden_vae``.

The file holds what diffusers' autoencoder returns for the weights and inputs of
``tests/models/vae_cases.py``, and the versions that made it.
"""

import pathlib

import diffusers
import numpy as np
import torch

from tests.models.vae_cases import CONFIGS, GOLDEN, images, latents, weights
from tests.parity.diffusers_vae import diffusers_vae
from tests.parity.torch_weights import torch_state

TARGET = pathlib.Path(__file__).parents[1] / "models" / "golden_vae.npz"


@torch.no_grad()
def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the moments and the decoded latents of one case, NHWC."""
    config = CONFIGS[name]
    net = diffusers_vae(config)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    state = torch_state(weights(config), shapes)
    net.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    x, z = (torch.tensor(a.transpose(0, 3, 1, 2)) for a in (images(config), latents(config)))
    gaussian = net.encode(x).latent_dist
    found = {"mean": gaussian.mean, "log_var": gaussian.logvar, "images": net.decode(z).sample}
    return {f"{name}_{key}": value.permute(0, 2, 3, 1).numpy() for key, value in found.items()}


def main() -> None:
    header = (
        f"tests/parity/make_golden_vae.py, diffusers {diffusers.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )
    arrays = {key: value for name in GOLDEN for key, value in golden(name).items()}
    np.savez_compressed(TARGET, header=header, **arrays)


if __name__ == "__main__":
    main()

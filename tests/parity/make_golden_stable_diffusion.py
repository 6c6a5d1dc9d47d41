"""Writes tests/models/golden_stable_diffusion.npz.

``python -m tests.parity.make_golden_stable_diffusion``: what the plain torch loop finds for the
recipes, weights and prompts of ``tests/models/stable_diffusion_cases.py``, and the versions that
made it.
"""

import pathlib

import diffusers
import numpy as np
import torch
import transformers

from tests.models.stable_diffusion_cases import CASES, GOLDEN_STEPS, noise, prompts, to_bytes
from tests.parity.torch_stable_diffusion import generate, networks

TARGET = pathlib.Path(__file__).parents[1] / "models" / "golden_stable_diffusion.npz"


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns magnitudes, final latents and images of two prompts from two noises each."""
    found = generate(name, networks(name), prompts(), noise(2), GOLDEN_STEPS)
    return {
        f"{name}_magnitudes": found.magnitudes,
        f"{name}_latents": found.latents,
        f"{name}_images": to_bytes(found.images),
    }


def main() -> None:
    header = (
        f"tests/parity/make_golden_stable_diffusion.py, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}"
    )
    arrays = {key: value for name in CASES for key, value in golden(name).items()}
    np.savez_compressed(TARGET, header=header, **arrays)


if __name__ == "__main__":
    main()

"""Writes models/published/golden_published.npz: ``python -m tests.parity.make_golden_published``.

The file holds what torch returns for the weights and inputs of
``tests/models/published/published_cases.py``, and the versions that made it.
"""

import pathlib

import numpy as np
import torch
import transformers

from tests.models.published.published_cases import CASES, inputs, state
from tests.parity.torch_networks import TorchDenseNet, TorchInception, TorchSSCD

TARGET = pathlib.Path(__file__).parents[1] / "models" / "published" / "golden_published.npz"


def _dinov2() -> torch.nn.Module:
    module = CASES["dinov2"][0]
    config = transformers.Dinov2Config(
        hidden_size=module.hidden_size,
        num_hidden_layers=module.num_layers,
        num_attention_heads=module.num_heads,
        mlp_ratio=module.mlp_size // module.hidden_size,
        image_size=module.grid * module.patch_size,
        patch_size=module.patch_size,
        use_mask_token=False,
    )
    return transformers.Dinov2Model(config)


NETWORKS = {
    "sscd": lambda: TorchSSCD((1, 2, 1, 1), dim=32),
    "sscd_large": lambda: TorchSSCD((2, 1, 1, 1), 32, 4, dim=48),
    "xrv": lambda: TorchDenseNet((2, 3, 2, 2), 8, 16),
    "dinov2": _dinov2,
    "inception": TorchInception,
}
_IN_MEMORY = {"attention.attention.query": "attention.q_proj"}
_IN_MEMORY |= {"attention.attention.key": "attention.k_proj"}
_IN_MEMORY |= {"attention.attention.value": "attention.v_proj"}
_IN_MEMORY |= {"attention.output.dense": "attention.o_proj"}


def torch_state(name: str) -> dict[str, torch.Tensor]:
    """Returns the weights of one case under the names that torch's network has in memory."""
    named = {}
    for key, value in state(name).items():
        for ours, theirs in _IN_MEMORY.items():
            key = key.replace(ours, theirs)
        named[key] = torch.from_numpy(value)
    return named


def golden(name: str) -> np.ndarray:
    """Returns torch's features for one case."""
    net = NETWORKS[name]().eval()
    missing, extra = net.load_state_dict(torch_state(name), strict=False)
    unused = ("num_batches_tracked", "classifier", "op_threshs", "fc.")
    missing = [key for key in missing if not any(part in key for part in unused)]
    if missing or extra:
        raise ValueError(f"{name} lacks {missing} and has besides {extra}.")
    x = torch.from_numpy(np.ascontiguousarray(inputs(name).transpose(0, 3, 1, 2)))
    with torch.no_grad():
        y = net(x)
    return (y.pooler_output if name == "dinov2" else y).numpy()


def main() -> None:
    header = (
        f"tests/parity/make_golden_published.py, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, numpy {np.__version__}"
    )
    np.savez_compressed(TARGET, header=header, **{name: golden(name) for name in CASES})


if __name__ == "__main__":
    main()

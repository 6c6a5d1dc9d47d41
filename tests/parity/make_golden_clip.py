"""Writes models/clip/golden_clip.npz: ``python -m tests.parity.make_golden_clip``.

The file holds what transformers' CLIP towers return for the weights and inputs of
``tests/models/clip/clip_cases.py``, and the versions that made it.
"""

import pathlib

import numpy as np
import torch
import transformers

from tests.models.clip.clip_cases import TEXTS, VISIONS, ids, pictures, text_weights, vision_weights
from tests.parity.torch_clip import clip_state, text_tower, vision_tower

TARGET = pathlib.Path(__file__).parents[1] / "models" / "clip" / "golden_clip.npz"


def fill(net: torch.nn.Module, params: dict) -> torch.nn.Module:
    state = clip_state(params)
    nested = any(key.startswith(("text_model.", "vision_model.")) for key in net.state_dict())
    inner = "text_model." if "final_layer_norm.weight" in state else "vision_model."
    apart = ("text_projection", "visual_projection")
    net.load_state_dict(
        {
            inner * (nested and not key.startswith(apart)) + key: torch.tensor(value)
            for key, value in state.items()
        },
        strict=True,
    )
    return net


@torch.no_grad()
def golden_text(name: str) -> dict[str, np.ndarray]:
    config, tokens = TEXTS[name], torch.tensor(ids()).long()
    net = fill(text_tower(config), text_weights(config))
    out = getattr(net, "text_model", net)(tokens)
    found = {"hidden": out.last_hidden_state, "pooled": out.pooler_output}
    if config.projection_dim is not None:
        found["projected"] = net(tokens).text_embeds
    return {f"text_{name}_{key}": value.numpy() for key, value in found.items()}


@torch.no_grad()
def golden_vision(name: str) -> np.ndarray:
    config = VISIONS[name]
    net = fill(vision_tower(config), vision_weights(config))
    return net(torch.tensor(pictures(config).transpose(0, 3, 1, 2))).image_embeds.numpy()


def main() -> None:
    header = (
        f"tests/parity/make_golden_clip.py, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )
    texts = {key: value for name in TEXTS for key, value in golden_text(name).items()}
    visions = {f"vision_{name}": golden_vision(name) for name in VISIONS}
    np.savez_compressed(TARGET, header=header, **texts, **visions)


if __name__ == "__main__":
    main()

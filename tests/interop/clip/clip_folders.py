"""A small CLIP model: settings, captions and a byte-level tokenizer with a few merges."""

import dataclasses
import json
import pathlib

from memjax.models.clip.text import CLIPTextConfig
from memjax.models.clip.vision import CLIPVisionConfig

MERGES = (("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>"))
CAPTIONS = ["a cat", "", "the cat and the other cat on a mat", "edema of the left lung"]


def _bytes() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + k) for k in range(len(others))]


def vocabulary() -> dict[str, int]:
    pieces = _bytes()
    pieces += [f"{piece}</w>" for piece in pieces] + ["".join(pair) for pair in MERGES]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: number for number, piece in enumerate(pieces)}


def write_tokenizer(folder: pathlib.Path, max_length: int = 16) -> None:
    """Writes ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TEXT = CLIPTextConfig(
    vocab_size=len(vocabulary()),
    hidden_size=64,
    intermediate_size=256,
    num_layers=2,
    num_heads=4,
    max_length=16,
    hidden_act="gelu",
    eos_token_id=2,
    projection_dim=20,
)
VISION = CLIPVisionConfig(
    image_size=24,
    patch_size=8,
    hidden_size=48,
    intermediate_size=96,
    num_layers=2,
    num_heads=3,
    hidden_act="gelu",
    projection_dim=20,
)


def transformers_settings() -> dict:
    """Returns the ``config.json`` of the whole model."""
    names = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    names |= {"norm_eps": "layer_norm_eps", "max_length": "max_position_embeddings"}
    towers = {}
    for tower, config in (("text", TEXT), ("vision", VISION)):
        values = dataclasses.asdict(config)
        del values["dtype"], values["projection_dim"]
        towers[f"{tower}_config"] = {names.get(key, key): v for key, v in values.items()}
    return {"model_type": "clip", "projection_dim": TEXT.projection_dim, **towers}


OPEN_CLIP_SETTINGS = {
    "model_cfg": {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 24,
            "layers": 2,
            "width": 48,
            "head_width": 16,
            "mlp_ratio": 2.0,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": len(vocabulary()),
            "width": 64,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.25, 0.125], "std": [0.5, 0.5, 0.5], "size": 24},
}

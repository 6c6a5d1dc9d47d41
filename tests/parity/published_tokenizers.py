"""Tokenizers as published: small files by model, and CLIP's vocabulary from openai-clip.

openai-clip is in the extra ``parity``; of it, one file is read and nothing imported.
"""

import gzip
import importlib.util
import json
import pathlib

import pytest

from memjax.interop.clip.tiny_tokenizer import BOS_TOKEN, EOS_TOKEN
from memjax.interop.clip.tokenizer import byte_names

_WRITTEN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
_TYPED = {"__type": "AddedToken"}
START, END = "<|startoftext|>", "<|endoftext|>"
LONG = {"bos_token": {"content": START} | _WRITTEN, "eos_token": {"content": END} | _WRITTEN}
LONG |= {"unk_token": LONG["eos_token"]}
SHORT = {"bos_token": START, "eos_token": END, "unk_token": END}
# tokenizer_config.json of 2022: every published model's, but for its name.
CONFIG = {
    "add_prefix_space": False,
    **{name: _TYPED | value for name, value in LONG.items()},
    "do_lower_case": True,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": END,
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
}


def _decoder(*extra: tuple[str, dict], special: bool = True) -> dict:
    """``added_tokens_decoder`` as transformers writes it since 2023."""
    found = {
        "49406": {"content": START, **_WRITTEN, "special": special},
        "49407": {"content": END, **_WRITTEN, "normalized": False, "special": special},
    }
    return {**dict(extra), **found}


_MARK = {"content": "!", **_WRITTEN, "normalized": False, "special": True}
_NEW = {"content": "<cat-toy>", **_WRITTEN, "special": False}
_LATER = {"clean_up_tokenization_spaces": True, "do_lower_case": True, "errors": "replace"}
_LATER |= {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **SHORT}

PUBLISHED = {
    "CompVis/stable-diffusion-v1-4": {
        "tokenizer_config": CONFIG | {"name_or_path": "openai/clip-vit-large-patch14"},
        "special_tokens_map": LONG | {"pad_token": END},
    },
    "runwayml/stable-diffusion-v1-5": {
        "tokenizer_config": CONFIG | {"name_or_path": "openai/clip-vit-large-patch14"},
        "special_tokens_map": LONG | {"pad_token": END},
    },
    "stabilityai/stable-diffusion-2-1": {
        "tokenizer_config": CONFIG
        | {"name_or_path": "hf-models/stable-diffusion-v2-768x768/tokenizer"},
        "special_tokens_map": LONG | {"pad_token": "!"},
    },
    "stabilityai/stable-diffusion-2-1-base": {
        "tokenizer_config": CONFIG
        | {"name_or_path": "hf-models/stable-diffusion-v2-base/tokenizer"},
        "special_tokens_map": LONG | {"pad_token": "!"},
    },
    # Fine-tunes: of 1.5 without the second file; 2.x as libraries save it since; with a
    # decoder, the map and added_tokens.json (sdxl_dpo_turbo); a material model of 1.5;
    # a textual inversion before and after added_tokens_decoder.
    "AdamOswald/Tardis-fusion": {"tokenizer_config": CONFIG},
    "saved again with '!' listed": {
        "tokenizer_config": _LATER
        | {"pad_token": "!", "added_tokens_decoder": _decoder(("0", _MARK))},
        "special_tokens_map": LONG
        | {"pad_token": {k: v for k, v in _MARK.items() if k != "special"}},
    },
    "tokenizer_2 of a turbo fine-tune": {
        "tokenizer_config": _LATER
        | {"pad_token": "!", "additional_special_tokens": []}
        | {"added_tokens_decoder": _decoder(("0", _MARK), special=False)},
        "special_tokens_map": SHORT | {"pad_token": "!"},
        "added_tokens": {"!": 0, END: 49407, START: 49406},
    },
    "Joey-Jang/StableMaterials": {
        "tokenizer_config": _LATER | {"pad_token": END, "added_tokens_decoder": _decoder()},
        "special_tokens_map": LONG
        | dict.fromkeys(
            ("eos_token", "pad_token", "unk_token"),
            {"content": END} | _WRITTEN | {"normalized": False},
        ),
    },
    "textual inversion of 2.1": {
        "tokenizer_config": CONFIG,
        "special_tokens_map": LONG | {"pad_token": "!"},
        "added_tokens": {"<cat-toy>": 49408},
    },
    "textual inversion saved later": {
        "tokenizer_config": _LATER
        | {"pad_token": END, "added_tokens_decoder": _decoder(("49408", _NEW))},
        "special_tokens_map": LONG | {"pad_token": END},
        "added_tokens": {"<cat-toy>": 49408},
    },
}

_MERGES = 49_152 - 256 - 2  # the file lists more; CLIP takes these


def write_vocabulary(folder: pathlib.Path) -> None:
    """Writes ``vocab.json`` and ``merges.txt`` as every Stable Diffusion publishes them."""
    found = importlib.util.find_spec("clip")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("needs the package openai-clip (extra 'parity')")
    home = pathlib.Path(next(iter(found.submodule_search_locations)))
    text = gzip.decompress((home / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = text.split("\n")[1 : _MERGES + 1]
    letters = byte_names()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += [merge.replace(" ", "") for merge in merges]
    vocab = {piece: k for k, piece in enumerate([*pieces, BOS_TOKEN, EOS_TOKEN])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *merges, ""]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")


def write(folder: pathlib.Path, vocabulary: pathlib.Path, name: str) -> None:
    """Writes the files of a published tokenizer, with links to the vocabulary's."""
    folder.mkdir()
    for file in vocabulary.iterdir():
        (folder / file.name).symlink_to(file)
    for stem, value in PUBLISHED[name].items():
        (folder / f"{stem}.json").write_text(json.dumps(value))

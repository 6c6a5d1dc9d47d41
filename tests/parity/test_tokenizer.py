"""Ids of prompts against transformers' own CLIP tokenizer, for every way to write its files."""

import json

import numpy as np
import pytest

from memjax.interop.clip.tiny_tokenizer import tiny_tokenizer
from memjax.interop.clip.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
TEXTS = [
    *("a cat!", "", "x" * 200, "a photo!! of <|endoftext|> ! <|ENDOFTEXT|>", "Ünï 🙂 12"),
    *("a <Dog> <dog>", "a<new>cat", "<|StartOfText|> [PAD] [pad] !cat"),
]


def written(text: str, **more: bool) -> dict:
    found = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    return {"content": text, **found, **more}


END, START = written("<|endoftext|>"), written("<|startoftext|>")
TYPED = {"__type": "AddedToken"}
# As Stable Diffusion was published: the files differ in 2, and agree in 1.
CONFIG = {
    "bos_token": START | TYPED,
    "eos_token": END | TYPED,
    "unk_token": END | TYPED,
    "pad_token": "<|endoftext|>",
    "model_max_length": 77,
}
FIRST = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "<|endoftext|>"}
SECOND = FIRST | {"pad_token": "!"}
LISTED = {"0": written("!", normalized=False, special=True)}
NEW = len(tiny_tokenizer())
FOLDERS = {
    "Stable Diffusion 1": {"tokenizer_config": CONFIG, "special_tokens_map": FIRST},
    "Stable Diffusion 2": {"tokenizer_config": CONFIG, "special_tokens_map": SECOND},
    "configuration alone": {"tokenizer_config": CONFIG},
    "map alone": {"special_tokens_map": SECOND},
    "neither": {},
    "decoder counts alone": {
        "tokenizer_config": CONFIG | {"added_tokens_decoder": LISTED},
        "special_tokens_map": SECOND,
        "added_tokens": {"<Dog>": NEW},
    },
    "empty decoder": {
        "tokenizer_config": CONFIG | {"added_tokens_decoder": {}},
        "special_tokens_map": SECOND,
    },
    "decoder of new tokens": {
        "tokenizer_config": CONFIG
        | {"added_tokens_decoder": {str(NEW): written("<Dog>", lstrip=True, normalized=False)}},
    },
    "added tokens": {
        "tokenizer_config": CONFIG,
        "special_tokens_map": SECOND,
        "added_tokens": {"<new>": NEW + 1, "<Dog>": NEW},
    },
    "new pad token": {
        "tokenizer_config": CONFIG | {"pad_token": "[PAD]"},
        "added_tokens": {"<Dog>": NEW},
    },
    "further special tokens": {
        "tokenizer_config": CONFIG,
        "special_tokens_map": SECOND | {"additional_special_tokens": ["<new>", "cat</w>"]},
    },
}


def theirs(folder) -> tuple[np.ndarray, int]:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    options = {"padding": "max_length", "max_length": 77, "truncation": True}
    return np.asarray(tokenizer(TEXTS, **options)["input_ids"]), tokenizer.pad_token_id


@pytest.mark.parametrize("layout", ["one file", "two files", "both"])
@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(tmp_path, name, layout):
    folder = tmp_path / "tokenizer"
    tiny_tokenizer().save(folder)
    (folder / "tokenizer_config.json").unlink()
    unused = {"one file": ("vocab.json", "merges.txt"), "two files": ("tokenizer.json",)}
    for file in unused.get(layout, ()):
        (folder / file).unlink()
    for file, value in FOLDERS[name].items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    ours = load_tokenizer(folder)
    expected, pad = theirs(folder)
    np.testing.assert_array_equal(ours.encode(TEXTS).ids, expected)
    assert ours.special_ids["pad_token_id"] == pad
    ours.save(tmp_path / "copy")
    np.testing.assert_array_equal(theirs(tmp_path / "copy")[0], expected)
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "copy").encode(TEXTS).ids, expected)

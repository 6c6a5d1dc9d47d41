"""The real CLIP vocabulary as a tokenizer's files, from openai-clip (extra ``parity``)."""

import gzip
import importlib.util
import json
import pathlib

import pytest

from memjax.interop.clip.tiny_tokenizer import BOS_TOKEN, EOS_TOKEN
from memjax.interop.clip.tokenizer import byte_names

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

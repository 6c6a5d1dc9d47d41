"""The files of a CLIP tokenizer's folder, read as data: nothing they name is opened or imported."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memjax.interop.fields import shown
from memjax.interop.json_files import MAX_BYTES

MAX_LENGTH = 77
_LONGEST = 100_000  # transformers writes 1e30 where no length was set
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
Read = Callable[[Path], dict[str, Any]]


class TokenizerParts(NamedTuple):
    """What defines a CLIP tokenizer.

    Attributes:
        vocab: Piece → id.
        merges: Pairs of pieces that are joined, first the ones joined first.
        special: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``.
        added: Further tokens that are never split, in the order of their ids.
        max_length: Tokens a prompt, start and end included.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    special: Mapping[str, str]
    added: tuple[str, ...] = ()
    max_length: int = MAX_LENGTH

    def write_plain(self, folder: Path) -> None:
        """Writes ``vocab.json`` and ``merges.txt``, which older libraries ask for."""
        vocab = json.dumps(dict(self.vocab), ensure_ascii=False)
        (folder / "vocab.json").write_text(vocab, encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        if self.added:
            start = len(self.vocab)
            added = {text: start + k for k, text in enumerate(self.added)}
            (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def read_parts(folder: Path, read: Read) -> TokenizerParts:
    """Reads either layout: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

    Args:
        folder: The tokenizer's folder.
        read: Path → JSON object.

    Raises:
        ValueError: Files are missing, or are not those of a CLIP tokenizer.
    """
    if not folder.is_dir():
        raise ValueError(
            f"There is no tokenizer folder {folder}; give one with tokenizer.json, or with "
            "vocab.json and merges.txt."
        )
    settings = _optional(folder / "tokenizer_config.json", read)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab, merges = read(folder / "vocab.json"), _plain_merges(folder / "merges.txt")
        listed: Any = []
    elif (folder / "tokenizer.json").is_file():
        vocab, merges, listed = _one_file(folder / "tokenizer.json", read)
    else:
        raise ValueError(
            f"The folder {folder} has neither tokenizer.json nor vocab.json with merges.txt; put "
            "the files of a CLIP tokenizer there."
        )
    _check_vocabulary(folder, vocab)
    special = _special(folder, settings, read)
    added = _added(folder, settings, listed, read, vocab)
    return TokenizerParts(vocab, merges, special, added, _max_length(folder, settings))


def _optional(path: Path, read: Read) -> dict[str, Any]:
    return read(path) if path.is_file() else {}


def _plain_merges(path: Path) -> tuple[tuple[str, str], ...]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"The file {path} has more than {MAX_BYTES} bytes; fetch it again.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"The file {path} is not text in UTF-8; fetch it again.") from error
    lines = lines[1:] if lines[0].startswith("#version") else lines
    pairs = [line.rstrip("\r").split(" ") for line in lines]
    return _pairs(path, [pair for pair in pairs if pair != [""]])


def _pairs(path: Path, merges: Any) -> tuple[tuple[str, str], ...]:
    """Accepts ``"a b"`` and ``["a", "b"]``."""
    pairs = []
    for number, merge in enumerate(merges if isinstance(merges, list) else [None]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(_is_piece(p) for p in pair)):
            raise ValueError(
                f"The file {path} has no pair of pieces as merge {number}; fetch it again."
            )
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _is_piece(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 1000


def _one_file(path: Path, read: Read) -> tuple[dict[str, int], tuple[tuple[str, str], ...], Any]:
    value = read(path)
    model = value.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError(
            f"The file {path} describes no byte-pair tokenizer, expected CLIP's; give the "
            "tokenizer folder of the model."
        )
    if model.get("end_of_word_suffix") != "</w>":
        raise ValueError(
            f"The file {path} describes a tokenizer that ends words with "
            f"{str(model.get('end_of_word_suffix'))[:40]!r}, expected '</w>' as in CLIP; give the "
            "tokenizer folder of the model."
        )
    return model.get("vocab"), _pairs(path, model.get("merges")), value.get("added_tokens")  # type: ignore[return-value]


def _check_vocabulary(folder: Path, vocab: Any) -> None:
    whole = isinstance(vocab, dict) and all(type(number) is int for number in vocab.values())
    if not whole or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(
            f"The vocabulary in {folder} does not number its pieces 0, 1, 2, …; fetch its files "
            "again."
        )


def _content(value: Any) -> str | None:
    """A token is written as text or as an object with its text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if _is_piece(value) else None


def _special(folder: Path, settings: Mapping[str, Any], read: Read) -> dict[str, str]:
    beside = _optional(folder / "special_tokens_map.json", read)
    return {
        name: _content(settings.get(name)) or _content(beside.get(name)) or usual
        for name, usual in _SPECIAL.items()
    }


def _added(
    folder: Path, settings: Mapping[str, Any], listed: Any, read: Read, vocab: Mapping[str, int]
) -> tuple[str, ...]:
    """Returns tokens beyond the vocabulary, for instance of textual inversion, by id."""
    found: dict[Any, Any] = dict(_optional(folder / "added_tokens.json", read))
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            found[_content(entry)] = entry.get("id")
    decoder = settings.get("added_tokens_decoder")
    for number, entry in (decoder if isinstance(decoder, dict) else {}).items():
        found[_content(entry)] = int(number) if re.fullmatch(r"\d{1,9}", number) else None
    beyond = {text: number for text, number in found.items() if text not in vocab}
    order = sorted(beyond, key=lambda text: beyond[text] if type(beyond[text]) is int else -1)
    if [beyond[text] for text in order] != [*range(len(vocab), len(vocab) + len(order))]:
        raise ValueError(
            f"The tokenizer in {folder} adds tokens with the ids "
            f"{[beyond[text] for text in order][:8]}, expected them to follow its vocabulary of "
            f"{len(vocab)}; fetch its files again."
        )
    return tuple(order)


def _max_length(folder: Path, settings: Mapping[str, Any]) -> int:
    length = settings.get("model_max_length", MAX_LENGTH)
    if isinstance(length, float) and length.is_integer():
        length = int(length)
    if type(length) is not int or length < 3:
        raise ValueError(
            f"The tokenizer in {folder} has model_max_length={shown(length)}, expected a whole "
            f"number of at least 3; CLIP's is {MAX_LENGTH}."
        )
    return length if length <= _LONGEST else MAX_LENGTH

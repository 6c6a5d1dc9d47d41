"""The files of a CLIP tokenizer's folder, read as data: nothing they name is opened or imported."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memjax.interop.fields import shown
from memjax.interop.file_kinds import stand_in
from memjax.interop.json_files import MAX_BYTES

MAX_LENGTH = 77
_LONGEST = 100_000  # transformers writes 1e30 where no length was set
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_MATCHING = ("single_word", "lstrip", "rstrip")
Read = Callable[[Path], dict[str, Any]]


class Token(NamedTuple):
    """A token that is never split, with transformers' names for how it is found in a text.

    Attributes:
        content: Its text.
        single_word: Whether it is only found as a whole word.
        lstrip: Whether it takes the spaces before it.
        rstrip: Whether it takes the spaces after it.
        normalized: Whether it is looked for in the text in lower case.
        special: Whether it is a special token.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


class TokenizerParts(NamedTuple):
    """What defines a CLIP tokenizer.

    Attributes:
        vocab: Piece → id.
        merges: Pairs of pieces that are joined, first the ones joined first.
        special: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``.
        added: Tokens that are never split, first those of the vocabulary, then those beyond it in
            the order of their ids.
        max_length: Tokens a prompt, start and end included.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    special: Mapping[str, str]
    added: tuple[Token, ...] = ()
    max_length: int = MAX_LENGTH

    def write_plain(self, folder: Path) -> None:
        """Writes ``vocab.json`` and ``merges.txt``, which older libraries ask for."""
        vocab = json.dumps(dict(self.vocab), ensure_ascii=False)
        (folder / "vocab.json").write_text(vocab, encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        beyond = [token.content for token in self.added if token.content not in self.vocab]
        if beyond:
            added = {text: len(self.vocab) + k for k, text in enumerate(beyond)}
            (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def read_parts(folder: Path, read: Read) -> TokenizerParts:
    """Reads either layout: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

    .. note:: As in transformers: where ``tokenizer_config.json`` has an ``added_tokens_decoder``,
        it alone names the special and added tokens; elsewhere ``special_tokens_map.json`` counts
        more than it, and ``added_tokens.json`` and ``tokenizer.json`` list the added tokens.

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
    _refuse_other_ways(folder, settings, _optional(folder / "tokenizer.json", read))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab, merges = read(folder / "vocab.json"), _plain_merges(folder / "merges.txt")
        listed = _optional(folder / "tokenizer.json", read).get("added_tokens")
    elif (folder / "tokenizer.json").is_file():
        vocab, merges, listed = _one_file(folder / "tokenizer.json", read)
    else:
        raise ValueError(
            f"The folder {folder} has neither tokenizer.json nor vocab.json with merges.txt; "
            + (
                f"its tokenizer is in {folder / 'tokenizer'}: give that."
                if (folder / "tokenizer").is_dir()
                else "put the files of a CLIP tokenizer there."
            )
        )
    _check_vocabulary(folder, vocab)
    special, added = _named_and_added(folder, settings, listed, read, vocab)
    return TokenizerParts(vocab, merges, special, added, _max_length(folder, settings))


def _optional(path: Path, read: Read) -> dict[str, Any]:
    return read(path) if path.is_file() else {}


def _refuse_other_ways(folder: Path, settings: Mapping[str, Any], file: Mapping[str, Any]) -> None:
    """Refuses settings that transformers obeys and no text encoder of CLIP was trained with."""
    found = dict(settings)
    for name in ("padding", "truncation"):
        part = file.get(name)
        if isinstance(part, Mapping) and part.get("direction") == "Left":
            found.setdefault(f"{name}_side", "left")
    usual = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}
    wrong = [name for name, value in usual.items() if found.get(name) not in (None, value)]
    if wrong:
        raise ValueError(
            f"The tokenizer in {folder} has {wrong[0]}={shown(found[wrong[0]])}, expected "
            f"{usual[wrong[0]]!r} as CLIP's text encoders were trained; give the tokenizer folder "
            "of the model as published."
        )


def _plain_merges(path: Path) -> tuple[tuple[str, str], ...]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"The file {path} has more than {MAX_BYTES} bytes; fetch it again.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"The file {path} is not text in UTF-8; fetch it again.") from error
    kind = stand_in("\n".join(lines).encode())
    if kind is not None:
        raise ValueError(f"The file {path} is {kind}.")
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


def _token(value: Any, special: bool = False) -> Token | None:
    """A token is written as text or as an object with its text and how it is found."""
    value = {"content": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not _is_piece(value.get("content")):
        return None
    special = special or value.get("special") is True
    matching = {name: value.get(name) is True for name in _MATCHING}
    normalized = value.get("normalized", not special) is True
    return Token(value["content"], **matching, normalized=normalized, special=special)


def _named_and_added(
    folder: Path, settings: Mapping[str, Any], listed: Any, read: Read, vocab: Mapping[str, int]
) -> tuple[dict[str, str], tuple[Token, ...]]:
    """Returns the special tokens by name, and every token that is never split."""
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        numbers = [int(key) if re.fullmatch(r"\d{1,9}", key) else None for key in decoder]
        entries: list[tuple[Any, Any]] = list(zip(numbers, decoder.values(), strict=True))
    else:
        settings = {**settings, **_optional(folder / "special_tokens_map.json", read)}
        beside = _optional(folder / "added_tokens.json", read)
        entries = [(number, text) for text, number in beside.items()]
        listed = listed if isinstance(listed, list) else []
        entries += [(entry.get("id"), entry) for entry in listed if isinstance(entry, dict)]
    given = {name: _token(settings.get(name), special=True) for name in _SPECIAL}
    named = {name: given[name] or Token(usual) for name, usual in _SPECIAL.items()}
    further = [token for value in _further(settings) if (token := _token(value, special=True))]
    special = {token.content for token in (*given.values(), *further) if token}
    found = _listed(folder, entries, special, vocab)
    # Of two ways to write one special token, transformers keeps the last.
    tokens = {token.content: token for token in (*named.values(), *further)}
    found |= {text: token for text, token in tokens.items() if text not in found}
    order = sorted(found, key=lambda text: vocab.get(text, len(vocab)))
    return {name: token.content for name, token in named.items()}, tuple(found[t] for t in order)


def _further(settings: Mapping[str, Any]) -> list[Any]:
    """Returns the special tokens without a name."""
    names = ("extra_special_tokens", "additional_special_tokens")
    lists = [settings[name] for name in names if isinstance(settings.get(name), list)]
    return [value for values in lists for value in values]


def _listed(
    folder: Path,
    entries: Sequence[tuple[Any, Any]],
    special: Collection[str],
    vocab: Mapping[str, int],
) -> dict[str, Token]:
    """Returns the tokens of pairs of id and entry by text; those beyond the vocabulary by id."""
    found: dict[str, Token] = {}
    beyond: dict[str, Any] = {}
    for number, entry in entries:
        token = _token(entry, special=isinstance(entry, str) and entry in special)
        text = token.content if token else ""
        if token:
            found[text] = token._replace(special=token.special or text in special)
        if text not in vocab:
            beyond[text] = number if token else None
    order = sorted(beyond, key=lambda text: beyond[text] if type(beyond[text]) is int else -1)
    if [beyond[text] for text in order] != [*range(len(vocab), len(vocab) + len(order))]:
        raise ValueError(
            f"The tokenizer in {folder} adds tokens with the ids "
            f"{[beyond[text] for text in order][:8]}, expected them to follow its vocabulary of "
            f"{len(vocab)}; fetch its files again."
        )
    within = {text: token for text, token in found.items() if text in vocab}
    return within | {text: found[text] for text in order}


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

"""CLIP's tokenizer: prompts → token ids, and the words behind them.

References:
    Radford et al. 2021, arXiv 2103.00020, §2.4; Sennrich et al. 2016, arXiv 1508.07909
    (byte pairs).
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from memjax.interop.clip.tokenizer_files import TokenizerParts, read_parts
from memjax.interop.fields import shown
from memjax.interop.json_files import read_json

BOS, EOS, PAD = "BOS", "EOS", "PAD"
_END = "</w>"


class Tokens(NamedTuple):
    """Token ids of prompts.

    Attributes:
        ids: Start token, pieces, end token, padding; every row as long as the tokenizer's
            ``max_length``.
        cut: How many pieces of each prompt did not fit and were cut off its end.
    """

    ids: Int[np.ndarray, "n l"]
    cut: Int[np.ndarray, " n"]


class PromptTokenizer:
    """Wraps transformers' ``CLIPTokenizer``.

    Attributes:
        max_length: Tokens a row, start and end included.
    """

    def __init__(self, parts: TokenizerParts):
        self.max_length = parts.max_length
        self._parts = parts
        self._clip = _clip_tokenizer(parts)

    def __len__(self) -> int:
        """Returns how many ids there are."""
        return max(self._clip.get_vocab().values()) + 1

    @property
    def special_ids(self) -> dict[str, int]:
        """``bos_token_id`` and ``pad_token_id``, as a text encoder's settings name them."""
        return {"bos_token_id": self._clip.bos_token_id, "pad_token_id": self._clip.pad_token_id}

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Returns the ids of prompts; long prompts are cut and the cut pieces counted."""
        rows, room = self._pieces(texts), self.max_length - 2
        clip = self._clip
        ids = np.full((len(rows), self.max_length), clip.pad_token_id, np.int32)
        for row, pieces in zip(ids, rows, strict=True):
            kept = [clip.bos_token_id, *pieces[:room], clip.eos_token_id]
            row[: len(kept)] = kept
        cut = [max(len(pieces) - room, 0) for pieces in rows]
        return Tokens(ids, np.asarray(cut, np.int32))

    def lengths(self, ids: Int[np.ndarray, "n l"]) -> Int[np.ndarray, " n"]:
        """Returns how many tokens each row of ids has up to and including its first end token.

        Where an end token is what pads, too, only the first of them ends the text.
        """
        return (np.argmax(ids == self._clip.eos_token_id, axis=1) + 1).astype(np.int32)

    def words(self, text: str) -> list[str]:
        """Returns one name for each position of :meth:`encode`'s row.

        ``"BOS"``, the pieces in lower case without the end-of-word mark, ``"EOS"``, then ``"PAD"``.
        A piece that is a part of one character only (an emoji takes several) is named by its bytes,
        such as ``"<f0 9f>"``.
        """
        pieces = self._pieces([text])[0][: self.max_length - 2]
        names = [_word(piece) for piece in self._clip.convert_ids_to_tokens(pieces)]
        names = [BOS, *names, EOS]
        return names + [PAD] * (self.max_length - len(names))

    def pieces(self) -> list[str]:
        """Returns the vocabulary by id, special tokens too, without the end-of-word mark."""
        vocab = self._clip.get_vocab()
        return [piece.removesuffix(_END) for piece in sorted(vocab, key=vocab.__getitem__)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tokenizer in both file layouts.

        ``tokenizer.json`` with ``tokenizer_config.json`` (transformers 5) and ``vocab.json`` with
        ``merges.txt`` (older versions).
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._clip.save_pretrained(path)
        self._parts.write_plain(path)

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise ValueError(f"texts is the string {texts!r}, expected a list: write [text].")
        if not texts:
            return []
        for text in texts:
            _check_text(text)
        return self._clip(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _check_text(text: Any) -> None:
    """Refuses what is no text, or no whole one."""
    if not isinstance(text, str):
        raise ValueError(f"A prompt is {shown(text)}, expected a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The prompt {shown(text)} has half of a character at place {error.start + 1} (an "
            "emoji that was cut through); write it whole, or leave it out."
        ) from error


def load_tokenizer(folder: str | os.PathLike[str]) -> PromptTokenizer:
    """Loads a CLIP tokenizer's folder, in either file layout.

    Args:
        folder: With ``tokenizer.json``, or with ``vocab.json`` and ``merges.txt``;
            ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` are
            heeded where they are there.

    Raises:
        ValueError: A file is missing, damaged or of another kind of tokenizer.
    """
    path = Path(folder)
    parts = read_parts(path, read_json)
    try:
        return PromptTokenizer(parts)
    except Exception as error:  # the tokenizers library raises bare Exception
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"The tokenizer in {path} is damaged ({said}); fetch its files again."
        ) from error


def _import_quietly() -> tuple[Any, Any]:
    """Imports what is needed of transformers without its line on the absence of torch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from transformers import AddedToken, CLIPTokenizer
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
    return AddedToken, CLIPTokenizer


def _clip_tokenizer(parts: TokenizerParts) -> Any:
    added_token, clip_tokenizer = _import_quietly()
    beyond = itertools.count(len(parts.vocab))
    added = {
        parts.vocab[token.content] if token.content in parts.vocab else next(beyond): token
        for token in parts.added
    }
    return clip_tokenizer(
        vocab=dict(parts.vocab),
        merges=[*parts.merges],
        model_max_length=parts.max_length,
        added_tokens_decoder={k: added_token(**token._asdict()) for k, token in added.items()},
        **parts.special,
    )


def byte_names() -> list[str]:
    """Returns the printable character that stands for each byte, in the order of CLIP's ids."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + k) for k in range(256 - len(plain))]


def _byte_of() -> dict[str, int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return dict(zip(byte_names(), [*plain, *others], strict=True))


_BYTE_OF = _byte_of()


def _word(piece: str) -> str:
    piece = piece.removesuffix(_END)
    if not all(c in _BYTE_OF for c in piece):
        return piece
    data = bytes(_BYTE_OF[c] for c in piece)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"<{data.hex(' ')}>"

"""Token weights made readable: what each token is, which make up a word, where it stands."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

WORD, SPECIAL, PADDING = "word", "special", "padding"
_BYTES = re.compile(r"<([0-9a-f]{2}(?: [0-9a-f]{2})*)>")
_INSIDE = "'’-_"
EOS, PAD = "EOS", "PAD"  # the first token, always at the same place, is BOS


class TokenWeight(NamedTuple):
    """One position of a condition.

    Attributes:
        token: Its name; the same one may come again.
        kind: ``word``, ``special`` (BOS, EOS) or ``padding``.
        weight: Its significance, ≥ 0.
    """

    token: str
    kind: str
    weight: float


class Word(NamedTuple):
    """A word of the prompt, its pieces joined.

    Attributes:
        text: As it is written in the caption.
        weight: ``√Σ w_i²`` over its tokens: the norm of the gradient in all of them together.
        tokens: Their positions.
        span: Where it stands in the caption, or None where that is not known.
    """

    text: str
    weight: float
    tokens: tuple[int, ...]
    span: tuple[int, int] | None = None


def token_weights(
    names: Sequence[str], weights: Sequence[float], *, text: bool
) -> list[TokenWeight]:
    """Pairs names with weights and says what each token is.

    Args:
        names: Of ``Bundle.describe``.
        weights: One a name.
        text: Whether the names come from a tokenizer, whose EOS and PAD are no words.

    Raises:
        ValueError: If they differ in number.
    """
    if len(names) != len(weights):
        raise ValueError(f"{len(names)} names and {len(weights)} weights: expected one a name.")
    kinds = {"EOS": SPECIAL, "PAD": PADDING} if text else {}
    return [
        TokenWeight(name, SPECIAL if i == 0 else kinds.get(name, WORD), float(weight))
        for i, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]


def shares(tokens: Sequence[TokenWeight]) -> dict[str, float]:
    """Returns the share of the total weight in the words, BOS, EOS and padding."""
    total = math.fsum(t.weight for t in tokens) or 1.0
    groups = {"words": 0.0}
    for token in tokens:
        name = {WORD: "words", PADDING: "padding"}.get(token.kind, token.token)
        groups[name] = groups.get(name, 0.0) + token.weight
    return {name: value / total for name, value in groups.items()}


def words_of(tokens: Sequence[TokenWeight], caption: str | None = None) -> list[Word]:
    """Returns the words in the caption's order; without a caption each token is a word.

    Pieces are joined where no space, bracket or the like stands between them. A caption that the
    pieces do not spell (a tokenizer with rules of its own) leaves them apart.

    Args:
        tokens: Of :func:`token_weights`.
        caption: The prompt's text in normal form C, see :func:`normal`.
    """
    positions = [i for i, token in enumerate(tokens) if token.kind == WORD]
    spans = None if caption is None else _spans([tokens[i].token for i in positions], caption)
    if caption is None or spans is None:
        return [Word(tokens[i].token, tokens[i].weight, (i,)) for i in positions]
    groups: list[list[int]] = []
    for k in range(len(positions)):
        if k and _belong(caption, spans[k - 1], spans[k]):
            groups[-1].append(k)
        else:
            groups.append([k])
    return [_word(tokens, caption, [(positions[k], spans[k]) for k in group]) for group in groups]


def normal(caption: str) -> str:
    """Returns a caption in the form that CLIP's tokenizer reads (composed characters)."""
    return unicodedata.normalize("NFC", caption)


def _word(
    tokens: Sequence[TokenWeight], caption: str, pieces: Sequence[tuple[int, tuple[int, int]]]
) -> Word:
    start, end = pieces[0][1][0], pieces[-1][1][1]
    weight = math.sqrt(math.fsum(tokens[i].weight ** 2 for i, _ in pieces))
    return Word(caption[start:end], weight, tuple(i for i, _ in pieces), (start, end))


def _spans(pieces: Sequence[str], caption: str) -> list[tuple[int, int]] | None:
    """Returns which characters each piece spells, or None where they do not spell the caption."""
    signs = [(byte, i) for i, c in enumerate(caption) for byte in c.lower().encode()]
    at, spans = 0, []
    for piece in pieces:
        data = _data(piece)
        while at < len(signs) and caption[signs[at][1]].isspace() and signs[at][0] != data[0]:
            at += 1
        if bytes(byte for byte, _ in signs[at : at + len(data)]) != data:
            return None
        spans.append((signs[at][1], signs[at + len(data) - 1][1] + 1))
        at += len(data)
    return spans


def _data(piece: str) -> bytes:
    """Returns the bytes of a piece, which is named by them where it is a part of a character."""
    named = _BYTES.fullmatch(piece)
    return bytes.fromhex(named[1]) if named else piece.encode() or b"\0"


def _belong(caption: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    if right[0] < left[1]:  # two pieces of one character
        return True
    if right[0] > left[1]:  # a space between
        return False
    before, after = caption[max(left[1] - 2, 0) : left[1]], caption[right[0] : right[0] + 2]
    a, b = before[-1], after[0]
    if _joins(a) or _joins(b):
        return True
    if a in _INSIDE:  # an apostrophe or a hyphen, where letters stand on both its sides
        return len(before) > 1 and _letter(before[0]) and _letter(b)
    if b in _INSIDE:
        return len(after) > 1 and _letter(a) and _letter(after[1])
    return _letter(a) and _letter(b) and not (_ideograph(a) or _ideograph(b))


def _letter(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LNM"


def _joins(sign: str) -> bool:
    """Marks, and what glues emojis together (joiners, variation and skin tone selectors)."""
    return unicodedata.category(sign) in ("Mn", "Me", "Mc", "Cf", "Sk") and not sign.isascii()


def _ideograph(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


class WordWeights(NamedTuple):
    """Weights of the tokens that stand for something in the prompt.

    Attributes:
        names: One a token.
        weights: Of each.
        specials: ``{"specials": {"EOS": ..., "PAD": ...}}``: the share of all weight but BOS's on
            the end token and on padding; empty where a prompt has neither.
    """

    names: list[str]
    weights: Float[np.ndarray, " w"]
    specials: dict[str, Any]


def word_weights(names: Sequence[str], weights: Float[np.ndarray, " l"]) -> WordWeights:
    """Sets BOS, the end token and padding apart.

    Args:
        names: One name a token, the first of them BOS's.
        weights: Significance of each.

    .. note:: A text encoder's end and padding tokens see the whole prompt, so that they carry much
        of the weight and say nothing about single words.
    """
    rest, values = list(names)[1:], np.asarray(weights)[1:]
    special = np.isin(rest, (EOS, PAD))
    if not special.any():
        return WordWeights(rest, values, {})
    total = max(float(values.sum()), 1e-12)
    shares = {name: float(values[[n == name for n in rest]].sum()) / total for name in (EOS, PAD)}
    kept = [name for name, out in zip(rest, special, strict=True) if not out]
    return WordWeights(kept, values[~special], {"specials": shares})

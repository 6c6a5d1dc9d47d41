"""A CLIP tokenizer of a few hundred pieces: every byte, and a list of whole words."""

import itertools
from collections.abc import Sequence

from memjax.interop.clip.tokenizer import PromptTokenizer, byte_names
from memjax.interop.clip.tokenizer_files import MAX_LENGTH, TokenizerParts

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    *("a", "an", "the", "of", "on", "in", "at", "with", "and", "by", "is", "to", "over", "under"),
    *("photo", "picture", "painting", "drawing", "image", "art", "portrait", "view", "style"),
    *("red", "green", "blue", "yellow", "white", "black", "orange", "purple", "brown", "pink"),
    *("circle", "square", "triangle", "star", "cross", "ring", "line", "dots", "stripes"),
    *("small", "large", "old", "new", "bright", "dark", "left", "right", "background"),
    *("cat", "dog", "bird", "house", "tree", "car", "city", "sea", "mountain", "flower"),
    *("man", "woman", "child", "face", "hand", "chest", "radiograph", "number", "beach"),
)
Merge = tuple[str, str]


def tiny_tokenizer(
    words: Sequence[str] = WORDS, *, pad_token: str = EOS_TOKEN, max_length: int = MAX_LENGTH
) -> PromptTokenizer:
    """Returns a tokenizer that writes each of ``words`` as one token, and all else in bytes.

    Args:
        words: In lower case.
        pad_token: Fills up short prompts: the end token in Stable Diffusion 1, ``"!"`` in 2.
        max_length: Tokens a prompt, start and end included.
    """
    letters = byte_names()
    merges = word_merges(words)
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces = list(dict.fromkeys([*pieces, *("".join(pair) for pair in merges)]))
    vocab = {piece: number for number, piece in enumerate([*pieces, BOS_TOKEN, EOS_TOKEN])}
    special = {
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "unk_token": EOS_TOKEN,
        "pad_token": pad_token,
    }
    return PromptTokenizer(TokenizerParts(vocab, merges, special, max_length=max_length))


def word_merges(words: Sequence[str]) -> tuple[Merge, ...]:
    """Returns byte-pair merges after which each word is one piece.

    As long as the merges so far leave more than one piece of a word, its first two are joined by
    one more; that comes last in the order, so earlier words stay whole.
    """
    ranks: dict[Merge, int] = {}
    for word in words:
        pieces = split_word(word, ranks)
        while len(pieces) > 1:
            ranks.setdefault((pieces[0], pieces[1]), len(ranks))
            pieces = split_word(word, ranks)
    return tuple(ranks)


def split_word(word: str, ranks: dict[Merge, int]) -> list[str]:
    """Returns a word's pieces: the merge of the lowest rank first, as long as there is one."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        first, second = min(pairs, key=lambda pair: ranks[pair])
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == (first, second):
                joined[-1] = first + second
            else:
                joined.append(piece)
        pieces = joined

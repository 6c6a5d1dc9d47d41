"""Captions as words: a small vocabulary of one's own, and slots that share one embedding table.

No pretrained tokenizer and no text encoder: what a caption says about copying is which of its words
bring a training image back, so a token is a word one can read.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from memjax.data.labels.slots import Slot

OTHER_WORD, NO_WORD = "(other)", "(none)"  # bracketed: no word of a caption can be one of these
TABLE = "words"
_WORD = re.compile(r"[^\W_]+")
_APOSTROPHES = re.compile("['’]")


def words_of(text: str) -> list[str]:
    """The words of a caption: lower case, without punctuation; "dog's" is one word.

    .. note:: Scripts without spaces between words give one long word a phrase: separate the words
        by spaces first.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_APOSTROPHES.sub("", plain))


def vocabulary_of(captions: Iterable[str], most: int) -> tuple[str, ...]:
    """The ``most`` most frequent words, the more frequent first; ties in alphabetical order.

    Raises:
        ValueError: ``most`` is not positive.
    """
    if most < 1:
        raise ValueError(f"vocabulary_size is {most}; expected at least 1 word.")
    counts = Counter(word for caption in captions for word in words_of(caption))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:most])


def word_slots(
    captions: Iterable[str], *, max_words: int, vocabulary_size: int
) -> tuple[Slot, ...]:
    """One slot a word position, up to the longest caption; all share one embedding table.

    A word that is not among the ``vocabulary_size`` most frequent ones is "(other)", a position
    after the last word is "(none)".

    Raises:
        ValueError: A number is not positive.
    """
    if max_words < 1:
        raise ValueError(f"max_words is {max_words}; expected at least 1 word.")
    texts = list(captions)
    values = (*vocabulary_of(texts, vocabulary_size), OTHER_WORD, NO_WORD)
    longest = max((len(words_of(text)) for text in texts), default=0)
    return tuple(Slot(f"Word {i}", values, TABLE) for i in range(1, min(max_words, longest) + 1))


def longer_than(captions: Iterable[str], num_words: int) -> int:
    """How many captions have more words than that, and lose the last ones."""
    return sum(len(words_of(caption)) > num_words for caption in captions)

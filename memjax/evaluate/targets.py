"""What a picture shows and what a prompt asks for, as columns of a classifier.

A column is a finding (``Edema``), one value of a class label (``Digit: 9``, one against the rest),
or a word of the captions (``Word: dog``).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from memjax.data.label_spaces import class_slots
from memjax.data.labels import UNKNOWN
from memjax.data.records import FINDINGS, NEGATIVE, POSITIVE, Record
from memjax.data.words import words_of

_WORD = "Word: "
_MOST_WORDS = 24
_RAREST, _COMMONEST = 0.02, 0.6


def target_names(records: Sequence[Record]) -> tuple[str, ...]:
    """Names the columns that suit a data set.

    Radiographs have the findings; other pictures the values of their class labels and, where they
    have captions, the most frequent words that stand in 2 to 60 % of them.
    """
    slots = class_slots(records)
    captions = [record.caption for record in records if record.caption]
    chest = any(r.view or any(r.findings) for r in records) or not (slots or captions)
    names = list(FINDINGS) if chest else []
    names += [f"{slot.name}: {value}" for slot in slots for value in slot.values]
    names = [name for name in names if not name.endswith(f": {UNKNOWN}")]
    if not chest and captions:
        names += [_WORD + word for word in _telling_words(captions)]
    return tuple(names)


def _telling_words(captions: Sequence[str]) -> list[str]:
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    low, high = _RAREST * len(captions), _COMMONEST * len(captions)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [w for w, n in ranked if low <= n <= high and len(w) > 2][:_MOST_WORDS]


def finding_targets(
    records: Sequence[Record], names: Sequence[str] = FINDINGS
) -> Int[np.ndarray, "n f"]:
    """Returns classifier targets: 1 present, 0 absent, −1 unknown.

    A blank finding counts as absent, an uncertain or ignored one as unknown; a class label that a
    record lacks as unknown; a word that its caption does not have as absent.

    References:
        Irvin et al. 2019, arXiv 1901.07031, §2 (unmentioned is treated as negative).
    """
    states = _states(records)
    table = np.select([states == POSITIVE, (states > POSITIVE) | (states < 0)], [1, -1], 0)
    return _columns(records, names, table, absent=0)


def asked_findings(
    records: Sequence[Record], names: Sequence[str] = FINDINGS
) -> Int[np.ndarray, "n f"]:
    """Returns what a prompt asks for: 1 present, 0 absent, −1 not mentioned.

    Of a class label only the value asked for is: that a 9 is no 3 says nothing more, and would
    count eight right answers for a wrong digit.
    """
    states = _states(records)
    table = np.select([states == POSITIVE, states == NEGATIVE], [1, 0], -1)
    return _columns(records, names, table, absent=-1)


def _states(records: Sequence[Record]) -> Int[np.ndarray, "n 14"]:
    return np.asarray([r.findings for r in records], np.int32).reshape(-1, len(FINDINGS))


def _columns(
    records: Sequence[Record], names: Sequence[str], table: np.ndarray, absent: int
) -> Int[np.ndarray, "n f"]:
    out = np.full((len(records), len(names)), absent, np.int32)
    rows = [(dict(record.classes), set(words_of(record.caption))) for record in records]
    for column, name in enumerate(names):
        slot, _, value = name.partition(": ")
        if name in FINDINGS:
            out[:, column] = table[:, FINDINGS.index(name)]
            continue
        for row, (classes, words) in enumerate(rows):
            if name.startswith(_WORD):
                shown = value in words
            elif slot not in classes:
                out[row, column] = -1
                continue
            else:
                shown = classes[slot] == value
            if shown:
                out[row, column] = 1
    return out

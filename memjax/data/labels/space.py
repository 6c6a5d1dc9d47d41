"""The label space: how an image's labels become token ids.

A condition is a sequence of tokens. Radiographs have one per finding (four states), view, sex, age
bin and any burned-in marker codes; other images one per class label and one per word of their
caption. Id 0 of every slot is reserved for the slot's learned null.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from memjax.data.labels.slots import (
    BLANK,
    FINDINGS,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    STATES,
    UNCERTAIN,
    VIEWS,
    Slot,
    shortened,
    state_of,
    suggestion,
    value_ids,
)
from memjax.data.labels.words import NO_WORD, OTHER_WORD, words_of
from memjax.data.labels.words import TABLE as WORDS

__all__ = [
    "BLANK",
    "FINDINGS",
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "STATES",
    "UNCERTAIN",
    "VIEWS",
    "LabelSpace",
    "Slot",
    "chexpert_label_space",
    "state_of",
    "suggestion",
]

OLDEST_BIN = 90
UNKNOWN = "unknown"
_CLINICAL = frozenset((*FINDINGS, "View", "Sex", "Age"))


class LabelSpace(NamedTuple):
    """The token slots a model is conditioned on (without BOS, which the network adds)."""

    slots: tuple[Slot, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of ids of each slot, the null included."""
        return tuple(len(slot.values) + 1 for slot in self.slots)

    @property
    def tables(self) -> tuple[str, ...]:
        """Which slots share embeddings, for the network; empty where none do."""
        names = tuple(slot.table for slot in self.slots)
        return names if any(names) else ()

    @property
    def num_tokens(self) -> int:
        """Number of slots."""
        return len(self.slots)

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings among the slots, in order."""
        return tuple(slot.name for slot in self.slots if slot.name in FINDINGS)

    @property
    def num_markers(self) -> int:
        """The number of marker slots."""
        return sum(_is_marker(slot) for slot in self.slots)

    @property
    def num_words(self) -> int:
        """The number of word slots: the longest caption that is read."""
        return sum(_is_word(slot) for slot in self.slots)

    @property
    def classes(self) -> tuple[Slot, ...]:
        """The slots of class labels: no finding, person, marker or word."""
        return tuple(slot for slot in self.slots if _is_class(slot))

    def encode(self, labels: Mapping[str, Any]) -> Int32[np.ndarray, " l"]:
        """Turn one prompt's labels into token ids.

        Args:
            labels: Finding names with ``"positive" | "negative" | "uncertain" | "blank"`` or
                1, 0, -1, None, or ``"ignored"`` for the null; ``view``; ``sex``; ``age`` in years
                or as a bin such as ``"60-64"``; ``markers`` as a list; class labels by name;
                ``caption`` as text. A finding left out is blank; a view, sex or age left out is
                "unknown"; a marker left out is "none"; a class label left out is "unknown" if
                training had such images, else the null; a word that training did not have is
                "(other)".

        Raises:
            ValueError: A name or value is not known to this label space.
        """
        texts = _texts_of(self, labels)
        return np.array([_token_id(slot, texts.get(slot.name)) for slot in self.slots], np.int32)

    def describe(self, labels: Mapping[str, Any]) -> list[str]:
        """One readable name per token, such as ``"Cardiomegaly: positive"``."""
        return self.describe_ids(self.encode(labels))

    def describe_ids(self, ids: Sequence[int] | Int32[np.ndarray, " l"]) -> list[str]:
        """As :meth:`describe`, from ids; id 0 reads "null"."""
        return [
            f"{slot.name}: {slot.values[int(i) - 1] if i else 'null'}"
            for slot, i in zip(self.slots, ids, strict=True)
        ]

    def null(self, num: int = 1) -> Int32[np.ndarray, "num l"]:
        """Ids of the unconditional prompt: every slot's null."""
        return np.zeros((num, self.num_tokens), np.int32)


def _is_marker(slot: Slot) -> bool:
    return slot.name.startswith("Marker ")


def _is_word(slot: Slot) -> bool:
    return slot.table == WORDS


def _is_class(slot: Slot) -> bool:
    return not (slot.name in _CLINICAL or _is_marker(slot) or _is_word(slot))


def _token_id(slot: Slot, text: str | None) -> int:
    """The id of a value; 0, the null, where a finding is ignored or nothing stands for unknown."""
    if slot.name in FINDINGS:
        return 0 if text == "ignored" else slot.id_of("blank" if text is None else text)
    if text is None:
        text = "none" if _is_marker(slot) else NO_WORD if _is_word(slot) else UNKNOWN
    if text == UNKNOWN and _is_class(slot) and UNKNOWN not in slot.values:
        return 0
    return slot.id_of(text)


def _texts_of(space: LabelSpace, labels: Mapping[str, Any]) -> dict[str, str]:
    """Slot name → value text, with every key of ``labels`` accounted for."""
    slots = {slot.name.casefold(): slot for slot in space.slots}
    texts: dict[str, str] = {}
    for key, value in labels.items():
        name = str(key).replace("_", " ").casefold()
        if name in slots:
            texts[slots[name].name] = _text_of(slots[name], value)
        elif name == "markers":
            texts.update(_marker_texts(space, value))
        elif name == "caption" and space.num_words:
            texts.update(_word_texts(space, value))
        else:
            raise ValueError(_unknown_label(space, key))
    return texts


def _unknown_label(space: LabelSpace, key: str) -> str:
    names = [slot.name for slot in space.slots if not _is_word(slot)]
    names += ["markers"] if space.num_markers else []
    names += ["caption"] if space.num_words else []
    return (
        f"The label {key!r} is not known to this model{suggestion(key, names)}; expected one of "
        f"{shortened(names, 24)}."
    )


def _word_texts(space: LabelSpace, value: Any) -> dict[str, str]:
    slots = [slot for slot in space.slots if _is_word(slot)]
    words = words_of("" if value is None else str(value))
    return {
        slot.name: word if word in value_ids(slot) else OTHER_WORD
        for slot, word in zip(slots, words, strict=False)
    }


def _marker_texts(space: LabelSpace, value: Any) -> dict[str, str]:
    codes = [value] if isinstance(value, str) else list(value or ())
    if len(codes) > space.num_markers:
        raise ValueError(
            f"The prompt has {len(codes)} markers but the model has {space.num_markers} marker "
            "slots; leave the others out."
        )
    return {f"Marker {i}": str(code) for i, code in enumerate(codes, start=1)}


def _text_of(slot: Slot, value: Any) -> str:
    if slot.name in FINDINGS:
        state = state_of(value, slot.name)
        return "ignored" if state == IGNORED else STATES[state]
    if slot.name == "Age":
        return _age_text(slot, value)
    return UNKNOWN if value is None or value == "" else str(value)


def _age_text(slot: Slot, value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        return "unknown"
    if text.casefold() in value_ids(slot):
        return text
    try:
        years = float(text)
    except ValueError:
        years = -1.0
    if not 0 <= years < 150:
        raise ValueError(f"age is {value!r}; expected years from 1 to 149 or a bin like '60-64'.")
    if years == 0:
        return "unknown"
    return next(v for v in slot.values if v.endswith("+") or years < int(v.split("-")[1]) + 1)


def chexpert_label_space(
    findings: Sequence[str] = FINDINGS,
    num_markers: int = 0,
    marker_vocabulary: Sequence[str] | Sequence[Sequence[str]] = (),
    age_bin: int = 5,
    view: bool = True,
    sex: bool = True,
    age: bool = True,
) -> LabelSpace:
    """The label space of CheXpert: findings, view, sex, age bin, markers.

    Args:
        findings: Which of FINDINGS get a token.
        num_markers: Number of marker slots.
        marker_vocabulary: Codes shared by all marker slots, or one sequence of codes a slot.
        age_bin: Width of an age bin in years; 90 and older share the last one.
        view: Whether the view gets a token.
        sex: Whether the sex gets a token.
        age: Whether the age gets a token.

    Raises:
        ValueError: An unknown or repeated finding, or a vocabulary that does not fit.
    """
    for name in findings:
        if name not in FINDINGS:
            raise ValueError(
                f"{name!r} is not a CheXpert finding{suggestion(name, FINDINGS)}; expected names "
                f"out of {shortened(FINDINGS)}."
            )
    if len(set(findings)) != len(findings):
        raise ValueError(f"findings names one finding twice: {tuple(findings)}; name each once.")
    slots = [Slot(name, STATES) for name in findings]
    if view:
        slots.append(Slot("View", (*VIEWS, "lateral", "unknown")))
    if sex:
        slots.append(Slot("Sex", ("Male", "Female", "unknown")))
    if age:
        slots.append(Slot("Age", (*_age_bins(age_bin), "unknown")))
    for index, words in enumerate(_vocabularies(num_markers, marker_vocabulary), start=1):
        slots.append(Slot(f"Marker {index}", (*words, "none")))
    return LabelSpace(tuple(slots))


def _age_bins(width: int) -> tuple[str, ...]:
    if not 1 <= width <= OLDEST_BIN:
        raise ValueError(f"age_bin is {width}; expected a width from 1 to {OLDEST_BIN} years.")
    starts = range(0, OLDEST_BIN, width)
    return (*(f"{a}-{min(a + width, OLDEST_BIN) - 1}" for a in starts), f"{OLDEST_BIN}+")


def _vocabularies(num: int, vocabulary: Sequence[Any]) -> list[tuple[str, ...]]:
    if num and not vocabulary:
        raise ValueError(f"num_markers is {num} but marker_vocabulary is empty; give its codes.")
    if not vocabulary or isinstance(vocabulary[0], str):
        return [tuple(vocabulary)] * num
    if len(vocabulary) != num:
        raise ValueError(
            f"marker_vocabulary has {len(vocabulary)} lists for {num} marker slots; give one each."
        )
    return [tuple(words) for words in vocabulary]

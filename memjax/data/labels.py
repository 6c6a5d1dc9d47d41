"""The label space: how a radiograph's labels become token ids.

A condition is a sequence of tokens: one per finding (four states), view, sex, age bin and any
burned-in marker codes. Id 0 of every slot is reserved for the slot's learned null.
"""

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

FINDINGS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
STATES: tuple[str, ...] = ("blank", "negative", "positive", "uncertain")
BLANK, NEGATIVE, POSITIVE, UNCERTAIN = range(4)
VIEWS: tuple[str, ...] = ("AP", "PA", "LL", "RL")
OLDEST_BIN = 90

_STATE_OF_NUMBER: dict[Real | int, int] = {1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}
_STATE_OF_TEXT = {
    **{name: state for state, name in enumerate(STATES)},
    "": BLANK,
    "1": POSITIVE,
    "1.0": POSITIVE,
    "0": NEGATIVE,
    "0.0": NEGATIVE,
    "-1": UNCERTAIN,
    "-1.0": UNCERTAIN,
}


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'Edema'?)`` for a near miss, else an empty string."""
    lower = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(str(word).casefold(), list(lower), n=1, cutoff=0.6)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""


class Slot(NamedTuple):
    """One token position: id 0 is the learned null, id i + 1 stands for ``values[i]``."""

    name: str
    values: tuple[str, ...]

    def id_of(self, value: str) -> int:
        """The id of ``value``, compared without regard to case.

        Raises:
            ValueError: The slot has no such value; the nearest one is suggested.
        """
        found = _value_ids(self).get(value.casefold())
        if found is None:
            raise ValueError(
                f"{self.name} has no value {value!r}{suggestion(value, self.values)}; "
                f"expected one of {_shortened(self.values)}."
            )
        return found


@functools.lru_cache(maxsize=256)
def _value_ids(slot: Slot) -> dict[str, int]:
    return {value.casefold(): index for index, value in enumerate(slot.values, start=1)}


def _shortened(values: Sequence[str], most: int = 16) -> str:
    shown = ", ".join(repr(value) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")


class LabelSpace(NamedTuple):
    """The token slots a model is conditioned on (without BOS, which the network adds)."""

    slots: tuple[Slot, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of ids of each slot, the null included."""
        return tuple(len(slot.values) + 1 for slot in self.slots)

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
        return sum(slot.name.startswith("Marker ") for slot in self.slots)

    def encode(self, labels: Mapping[str, Any]) -> Int32[np.ndarray, " l"]:
        """Turn one prompt's labels into token ids.

        Args:
            labels: Finding names with ``"positive" | "negative" | "uncertain" | "blank"`` or
                1, 0, -1, None; ``view``; ``sex``; ``age`` in years or as a bin such as
                ``"60-64"``; ``markers`` as a list. A finding left out is blank; a view, sex or
                age left out is "unknown"; a marker left out is "none".

        Raises:
            ValueError: A name or value is not known to this label space.
        """
        texts = _texts_of(self, labels)
        return np.array(
            [slot.id_of(texts.get(slot.name, _default(slot))) for slot in self.slots], np.int32
        )

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


def _default(slot: Slot) -> str:
    if slot.name in FINDINGS:
        return "blank"
    return "none" if slot.name.startswith("Marker ") else "unknown"


def _texts_of(space: LabelSpace, labels: Mapping[str, Any]) -> dict[str, str]:
    """Slot name → value text, with every key of ``labels`` accounted for."""
    slots = {slot.name.casefold(): slot for slot in space.slots}
    texts: dict[str, str] = {}
    for key, value in labels.items():
        name = str(key).replace("_", " ").casefold()
        if name == "markers":
            texts.update(_marker_texts(space, value))
        elif name not in slots:
            known = [*slots, *(["markers"] if space.num_markers else [])]
            names = [slots[k].name if k in slots else k for k in known]
            raise ValueError(
                f"The label {key!r} is not known to this model{suggestion(name, names)}; "
                f"expected one of {_shortened(names, 24)}."
            )
        else:
            slot = slots[name]
            texts[slot.name] = _text_of(slot, value)
    return texts


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
        return STATES[state_of(value, slot.name)]
    if slot.name == "Age":
        return _age_text(slot, value)
    return "unknown" if value is None or value == "" else str(value)


def state_of(value: Any, name: str = "finding") -> int:
    """The state (BLANK, NEGATIVE, POSITIVE, UNCERTAIN) that ``value`` stands for.

    Raises:
        ValueError: The value is none of 1, 0, -1, None and the four state names.
    """
    if value is None:
        return BLANK
    if isinstance(value, str):
        found = _STATE_OF_TEXT.get(value.strip().casefold())
    else:
        found = _STATE_OF_NUMBER.get(value) if isinstance(value, Real) else None
    if found is None:
        raise ValueError(
            f"{name} has the value {value!r}{suggestion(str(value), STATES)}; expected positive, "
            "negative, uncertain, blank, 1, 0, -1 or null."
        )
    return found


def _age_text(slot: Slot, value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        return "unknown"
    if text.casefold() in _value_ids(slot):
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
                f"out of {_shortened(FINDINGS)}."
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

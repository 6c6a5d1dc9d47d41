"""One position of a condition: its name, its values, and what is written for a value.

Id 0 of every slot is reserved for the slot's learned null.
"""

import difflib
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

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
IGNORED = -1  # nothing is said and nothing may be learned: the slot's null, id 0
VIEWS: tuple[str, ...] = ("AP", "PA", "LL", "RL")
OLDEST_BIN = 90

_STATE_OF_NUMBER: dict[Real | int, int] = {1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}
_STATE_OF_TEXT = {
    **{name: state for state, name in enumerate(STATES)},
    "ignored": IGNORED,
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
    """One token position: id 0 is the learned null, id i + 1 stands for ``values[i]``.

    Attributes:
        name: What the token says something about.
        values: What it may say.
        table: Slots of the same non-empty table share their embeddings (words of a caption, at
            whatever position); they must have the same values. Empty: embeddings of its own.
    """

    name: str
    values: tuple[str, ...]
    table: str = ""

    def id_of(self, value: str) -> int:
        """The id of ``value``; where no value is written exactly so, without regard to case.

        Raises:
            ValueError: The slot has no such value; the nearest one is suggested.
        """
        ids = value_ids(self)
        found = ids.get(value) or ids.get(value.casefold())
        if found is None:
            raise ValueError(
                f"{self.name} has no value {value!r}{suggestion(value, self.values)}; "
                f"expected one of {shortened(self.values)}."
            )
        return found


def value_ids(slot: Slot) -> dict[str, int]:
    """Value → id, as written and case-folded; of two that differ in case alone, each its own."""
    # By identity: to hash a vocabulary of thousands of words costs more than to look one up.
    kept = _ids.get(id(slot.values))
    if kept is None or kept[0] is not slot.values:
        if len(_ids) >= _MOST_TABLES:
            _ids.clear()
        kept = _ids[id(slot.values)] = (slot.values, _numbered(slot.values))
    return kept[1]


_MOST_TABLES = 256
_ids: dict[int, tuple[tuple[str, ...], dict[str, int]]] = {}


def _numbered(values: tuple[str, ...]) -> dict[str, int]:
    ids = {value: index for index, value in enumerate(values, start=1)}
    for index, value in enumerate(values, start=1):
        ids.setdefault(value.casefold(), index)
    return ids


def shortened(values: Sequence[str], most: int = 16) -> str:
    """The first values, quoted, and how many there are besides."""
    shown = ", ".join(repr(value) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")


def state_of(value: Any, name: str = "finding") -> int:
    """The state (BLANK, NEGATIVE, POSITIVE, UNCERTAIN, IGNORED) that ``value`` stands for.

    Raises:
        ValueError: The value is none of 1, 0, -1, None and the state names.
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

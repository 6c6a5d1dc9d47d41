"""A record as one readable line, and back.

``Frontal AP view, male, age 60-64: cardiomegaly, pleural effusion (uncertain), no edema;
markers K3 17``

An image with class labels reads ``digit 9, stroke thick``; one with a caption of its own keeps it.
"""

from collections.abc import Mapping
from typing import Any

from memjax.data.labels.space import (
    BLANK,
    FINDINGS,
    IGNORED,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    VIEWS,
    LabelSpace,
    chexpert_label_space,
    suggestion,
)
from memjax.data.records import Record

_BY_NAME = {name.casefold(): name for name in FINDINGS}
_SEXES = {"male": "Male", "female": "Female"}


def caption_of(record: Record, age_bin: int = 5) -> str:
    """The caption of a record; its own ``caption`` if it has one.

    What is unknown or unmentioned is left out. A positive finding is named, an uncertain one is
    followed by "(uncertain)", a negative one preceded by "no"; "abnormal" stands for a negative
    "No Finding". Class labels are named one after the other.
    """
    if record.caption:
        return record.caption
    if record.classes:
        return classes_text(dict(record.classes))
    shot = "Frontal" if record.frontal else "Lateral"
    head = [f"{shot} {record.view} view" if record.view else f"{shot} view"]
    if record.sex:
        head.append(record.sex.lower())
    if record.age:
        space = chexpert_label_space((), age_bin=age_bin, view=False, sex=False)
        head.append("age " + space.describe({"age": record.age})[0].removeprefix("Age: "))
    stated = zip(FINDINGS, record.findings, strict=True)
    named = [_phrase(name, state) for name, state in stated if state not in (BLANK, IGNORED)]
    text = ", ".join(head) + (f": {', '.join(named)}" if named else "")
    return text + (f"; markers {' '.join(record.markers)}" if record.markers else "")


def _phrase(name: str, state: int) -> str:
    if name == "No Finding" and state == NEGATIVE:
        return "abnormal"
    text = name.lower()
    return {NEGATIVE: f"no {text}", POSITIVE: text, UNCERTAIN: f"{text} (uncertain)"}[state]


def classes_text(classes: Mapping[str, Any]) -> str:
    """``digit 9, stroke thick``: the names in lower case, the values as they are."""
    return ", ".join(f"{name.lower()} {value}" for name, value in classes.items())


def labels_from_caption(text: str, space: LabelSpace | None = None) -> dict[str, Any]:
    """Read a caption back into the ``labels`` of a prompt row.

    Args:
        text: A caption as :func:`caption_of` writes it.
        space: The model's label space: one with words takes any text, one with class labels
            ``digit 9, stroke thick``. None reads a radiograph's caption.

    Raises:
        ValueError: A word that is no view, sex, age, finding or class; the nearest one is
            suggested.
    """
    if space is not None and space.num_words:
        return {"caption": text}
    if space is not None and space.classes and not space.findings:
        return dict(_read_class(part, space) for part in _parts(text.strip().rstrip(".")))
    body, _, marked = text.strip().rstrip(".").partition(";")
    head, _, found = body.partition(":")
    labels: dict[str, Any] = {}
    for part in _parts(head):
        labels.update(_read_head(part))
    for part in _parts(found):
        name, state = _read_finding(part)
        labels[name] = state
    if marked.strip():
        words = marked.split()
        if words[0].casefold() not in ("markers", "marker"):
            raise ValueError(f"{marked.strip()!r} is not understood; expected 'markers K3 17'.")
        labels["markers"] = words[1:]
    return labels


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_class(part: str, space: LabelSpace) -> tuple[str, str]:
    for slot in sorted(space.classes, key=lambda slot: -len(slot.name)):
        if part.casefold().startswith(f"{slot.name.casefold()} "):
            return slot.name, part[len(slot.name) :].strip()
    if len(space.classes) == 1:
        return space.classes[0].name, part
    names = [slot.name.lower() for slot in space.classes]
    raise ValueError(
        f"{part!r} is not understood{suggestion(part.split()[0], names)}; expected a class label "
        f"and its value, such as '{names[0]} {space.classes[0].values[0]}'."
    )


def _read_head(part: str) -> dict[str, Any]:
    words = part.split()
    low = [word.casefold() for word in words]
    if low[-1] == "view" and low[0] in ("frontal", "lateral") and len(words) <= 3:
        if len(words) == 2:
            return {"view": "lateral"} if low[0] == "lateral" else {}
        if words[1].upper() in VIEWS:
            return {"view": words[1].upper()}
    elif len(words) == 1 and low[0] in _SEXES:
        return {"sex": _SEXES[low[0]]}
    elif low[0] == "age" and len(words) == 2:
        return {"age": words[1]}
    elif "(" in part or low[0] == "no" or part.casefold() in _BY_NAME:
        return dict([_read_finding(part)])
    known = ["frontal view", "lateral view", "frontal AP view", "frontal PA view", *_SEXES]
    raise ValueError(
        f"{part!r} is not understood{suggestion(part, [*known, *_BY_NAME])}; expected a caption "
        "like 'Frontal AP view, male, age 60-64: cardiomegaly, no edema; markers K3 17'."
    )


def _read_finding(part: str) -> tuple[str, str]:
    text = " ".join(part.casefold().split())
    state = "positive"
    if text == "abnormal":
        return "No Finding", "negative"
    if text.endswith("(uncertain)"):
        text, state = text.removesuffix("(uncertain)").strip(), "uncertain"
    elif text.startswith("no ") and text not in _BY_NAME:
        text, state = text.removeprefix("no "), "negative"
    if text not in _BY_NAME:
        raise ValueError(
            f"The finding {part!r} is not known{suggestion(text, FINDINGS)}; expected names out "
            f"of {', '.join(FINDINGS)}."
        )
    return _BY_NAME[text], state

"""Methods by name: a registry of frozen dataclasses, and the text that names one with its fields.

``sharpness`` stands for ``Sharpness()``, ``noise_magnitude:steps=first:rms=true`` for
``NoiseMagnitude(steps="first", rms=True)``. The same text stands in flags, configurations and
provenance; fields are read by their type. A value that is such a text itself stands in
parentheses: ``embedding_optimization:detector=(noise_magnitude:rms=true)``.
"""

import dataclasses
import difflib
import importlib
import inspect
import itertools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_WORDS = {"true": True, "false": False, "none": None}


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of methods by name; a class is imported when it is first asked for.

    Args:
        kind: What its entries are called in sentences, such as ``detector``.
        entries: Name → ``module:Class``, or the class itself.
    """

    def __init__(self, kind: str, entries: Mapping[str, str | type[T]]):
        self.kind = kind
        self._entries: dict[str, str | type[T]] = dict(entries)

    def __getitem__(self, name: str) -> type[T]:
        """Returns the class called ``name``.

        Raises:
            ValueError: If there is none; the nearest name is suggested.
        """
        if name not in self._entries:
            raise ValueError(
                f"there is no {self.kind} {name!r}{_nearest(name, self._entries)}: expected one "
                f"of {', '.join(self._entries)}."
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, cls = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), cls)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def register(self, name: str, cls: str | type[T]) -> None:
        """Adds a method, from anywhere; a name that is taken is refused.

        Raises:
            ValueError: If the name is taken, or holds a character that separates fields.
        """
        if name in self._entries:
            raise ValueError(
                f"the {self.kind} {name!r} is registered already: choose another name."
            )
        if not name.isidentifier():
            raise ValueError(f"{self.kind} {name!r}: expected letters, digits and underscores.")
        self._entries[name] = cls

    def unregister(self, name: str) -> None:
        """Removes a method that was added, for tests and notebooks."""
        del self._entries[name]

    def parse(self, text: str, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> T:
        """Returns the method that ``NAME:field=value:field=value`` describes.

        Args:
            text: Name and fields; a tuple's values are joined by ``/``.
            defaults: Name → fields that hold where the text does not give them.

        Raises:
            ValueError: If the name or a field is unknown, or a value does not fit its type.
        """
        name, *given = split_outside(str(text).strip(), ":")
        cls = self[name]
        hints = typing.get_type_hints(cls)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        fields_of = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = dict((defaults or {}).get(name, {}))
        for part in given:
            field, equals, value = part.partition("=")
            if not equals or field not in fields:
                raise ValueError(
                    f"{self.kind} {text!r}: {part!r} is no field=value of {name}"
                    f"{_nearest(field, fields)}: expected fields out of "
                    f"{', '.join(fields) or 'none'}."
                )
            if field in {p.partition("=")[0] for p in given[: given.index(part)]}:
                raise ValueError(f"{self.kind} {text!r}: {field} is given twice: leave one out.")
            value = value[1:-1] if value.startswith("(") and value.endswith(")") else value
            where = f"{self.kind} {text!r}: {field}"
            values[field] = _read(value, fields[field], where)
            _check_number(values[field], fields_of[field], where)
        return cls(**values)

    def parse_all(
        self, texts: Sequence[str], defaults: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, T]:
        """Returns text → method for several, in order; a text that stands twice counts once."""
        return {text: self.parse(text, defaults) for text in map(str.strip, texts)}

    def name_of(self, method: T) -> str:
        """Returns the name a method is registered under.

        Raises:
            ValueError: If its class is not registered.
        """
        for name in self._entries:
            if self[name] is type(method):
                return name
        raise ValueError(f"{type(method).__name__} is not registered as a {self.kind}.")

    def text(self, method: T) -> str:
        """Returns the text that :meth:`parse` reads back: the name and the fields that were set."""
        parts = [self.name_of(method)]
        for field in dataclasses.fields(method):  # type: ignore[arg-type]
            value = getattr(method, field.name)
            if value != field.default:
                parts.append(f"{field.name}={_write(value)}")
        return ":".join(parts)

    def help(self) -> str:
        """Returns one line a method: name, what it is, its cost and what it needs."""
        rows = [(name, summary(self[name])) for name in self._entries]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"  {name:<{width}}  {said}" for name, said in rows)

    def table(self) -> str:
        """Returns a Markdown table, one row a method: what it is, its needs, cost and reference.

        A reference is what stands under ``References:`` in the method's docstring; a column for
        stages stands where the methods have any.
        """
        staged = any(hasattr(cls, "stage") for cls in self.values())
        stage = ["Stage"] if staged else []
        head = ["Name", "What it is", *stage, "Needs", "Cost", "Reference"]
        rows = [head, ["---"] * len(head)]
        for name, cls in self.items():
            needs = ", ".join(f"`{need}`" for need in sorted(getattr(cls, "needs", ())))
            said = [f"`{name}`", first_line(cls).rstrip(".")]
            said += [getattr(cls, "stage", "")] if staged else []
            rows.append(
                [_cell(c) for c in (*said, needs, getattr(cls, "cost", ""), references(cls))]
            )
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def split_outside(text: str, separator: str) -> list[str]:
    """Splits a text at a character, but not within parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        exponent = character == "+" and re.search(r"\d[eE]$", parts[-1])  # of 1e+5
        if character == separator and depth == 0 and not exponent:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def title_of(text: str) -> str:
    """Returns methods as a reader is told of them, from the text that names them.

    ``embedding_noise:scale=0.3+guidance_delay:dynamic=true`` becomes ``embedding noise (scale 0.3)
    + guidance delay (dynamic)``.
    """
    return " + ".join(_one_title(part) for part in split_outside(text, "+"))


def _one_title(text: str) -> str:
    name, *fields = split_outside(text, ":")
    said = ", ".join(map(_field_title, fields))
    return name.replace("_", " ") + (f" ({said})" if said else "")


def _field_title(text: str) -> str:
    name, _, value = text.partition("=")
    name = name.replace("_", " ")
    if value in ("true", "false"):
        return name if value == "true" else f"not {name}"
    if value.startswith("(") and value.endswith(")"):
        return f"{name} {_one_title(value[1:-1])}"
    minus = "−" if value.startswith("-") else ""
    return f"{name} {minus}{value.removeprefix('-').replace('/', ', ')}"


def first_line(cls: type) -> str:
    """Returns the first line of a method's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0].strip()


def references(cls: type) -> str:
    """Returns the section ``References:`` of a method's docstring on one line; empty without."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("\nReferences:\n")
    lines = itertools.takewhile(lambda line: not line or line[0] == " ", section.splitlines())
    return " ".join(line.strip() for line in lines if line)


def _cell(text: str) -> str:
    """Returns a docstring's text as a cell: code in single quotes, no bar that ends the cell."""
    return text.replace("``", "`").replace("|", "\\|") or "–"


def summary(cls: type) -> str:
    """Returns the first line of a method's docstring, with its cost and needs."""
    first = first_line(cls)
    notes = [getattr(cls, "cost", "")]
    needs: frozenset[str] = getattr(cls, "needs", frozenset())
    if needs:
        notes.append(f"needs {', '.join(sorted(needs))}")
    said = "; ".join(note for note in notes if note)
    return f"{first} [{said}]" if said else first


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _read(text: str, kind: Any, where: str) -> Any:
    """Reads a value by its field's type; unions are tried from left to right, text last."""
    options = typing.get_args(kind) if _is_union(kind) else (kind,)
    for option in sorted(options, key=lambda o: o is str):
        try:
            return _read_as(text, option)
        except ValueError:
            continue
    said = " or ".join(_says(option) for option in options)
    raise ValueError(f"{where} is {text!r}, expected {said}.")


def _check_number(value: Any, field: dataclasses.Field, where: str) -> None:
    """Refuses infinite and negative numbers, but for a field's own default.

    A field that may be negative says so: ``dataclasses.field(metadata={"signed": True})``.
    """
    low = -1e9 if field.metadata.get("signed") else 0
    for number in value if isinstance(value, tuple) else (value,):
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and number != field.default and not low <= number <= 1e9:
            raise ValueError(f"{where} is {number}, expected a number from {low} to 1e9.")


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _read_as(text: str, kind: Any) -> Any:
    if kind is types.NoneType or kind is bool:
        value = _WORDS.get(text.lower(), text)
        if isinstance(value, bool if kind is bool else types.NoneType):
            return value
        raise ValueError(text)
    if typing.get_origin(kind) is tuple:
        inner, *_ = typing.get_args(kind)
        return tuple(_read(part, inner, "value") for part in text.split("/") if part)
    if typing.get_origin(kind) is typing.Literal:
        if text in typing.get_args(kind):
            return text
        raise ValueError(text)
    value = kind(text)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(text)
    return value


def _says(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"{_says(typing.get_args(kind)[0])} values joined by '/'"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        types.NoneType: "none",
    }.get(kind, getattr(kind, "__name__", str(kind)))


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_write, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, float) else str(value)
    return f"({text})" if any(c in text for c in ":=,+") and isinstance(value, str) else text

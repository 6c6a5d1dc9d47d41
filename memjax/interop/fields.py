"""Settings of a foreign file, read one by one; all that do not fit end up in one sentence."""

import math
from collections.abc import Mapping
from typing import Any


class Fields:
    """Reads settings and collects what is wrong with them.

    Attributes:
        problems: One phrase for each setting that cannot be used.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values = values
        self.where = where
        self.problems: list[str] = []
        self._seen: set[str] = set()

    def whole(self, name: str, default: int, most: int, least: int = 1) -> int:
        """Returns a whole number in ``[least, most]``."""
        value = self._get(name, default)
        if type(value) is int and least <= value <= most:
            return value
        self._refuse(name, value, f"a whole number from {least} to {most}")
        return default

    def wholes(self, name: str, default: int, most: int, count: int) -> int | tuple[int, ...]:
        """Returns a whole number, or one for each of ``count`` levels."""
        value = self._get(name, default)
        if not isinstance(value, list):
            return self.whole(name, default, most)
        if len(value) == count and all(type(v) is int and 0 < v <= most for v in value):
            return tuple(value)
        self._refuse(name, value, f"{count} whole numbers from 1 to {most}")
        return default

    def same(self, name: str, default: int, most: int) -> int:
        """Returns a whole number that may also be written once for each level."""
        value = self._get(name, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            self.values = {**self.values, name: value[0]}
        return self.whole(name, default, most)

    def widths(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the channels of one to eight levels."""
        value = self._get(name, list(default))
        good = isinstance(value, list) and 0 < len(value) <= 8
        if good and all(type(v) is int and 0 < v <= 65_536 for v in value):
            return tuple(value)
        self._refuse(name, value, "one to eight numbers of channels")
        return default

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """Returns a number in ``[least, most]``."""
        value = self._get(name, default)
        if type(value) in (int, float) and math.isfinite(value) and least <= value <= most:
            return float(value)
        self._refuse(name, value, f"a number from {least:g} to {most:g}")
        return default

    def choice(self, name: str, *allowed: Any) -> Any:
        """Returns one of the allowed values; the first stands where the setting is missing."""
        value = self._get(name, allowed[0])
        if any(type(value) is type(good) and value == good for good in allowed):
            return value
        if type(value) in (int, float) and any(value == g for g in allowed if _is_number(g)):
            return value
        self._refuse(name, value, " or ".join(repr(good) for good in allowed))
        return allowed[0]

    def ignore(self, *names: str) -> None:
        """Marks settings that change no arithmetic here."""
        self._seen.update(names)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a setting unchecked."""
        return self._get(name, default)

    def refuse_others(self) -> None:
        """Refuses settings that were not read, unless they are off (null or false)."""
        for name, value in self.values.items():
            if not (name in self._seen or name.startswith("_") or value is None or value is False):
                self._refuse(name, value, "none of that name")

    def finish(self, expected: str) -> None:
        """Raises if anything was wrong.

        Raises:
            ValueError: Lists every setting that cannot be used.
        """
        if self.problems:
            raise ValueError(
                f"The file {self.where} has {', '.join(self.problems)}; memjax reads {expected}: "
                "choose such a model."
            )

    def _get(self, name: str, default: Any) -> Any:
        self._seen.add(name)
        return self.values.get(name, default)

    def _refuse(self, name: str, value: Any, expected: str) -> None:
        self.problems.append(f"{shown(name, 60)}={shown(value)} (expected {expected})")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def shown(value: Any, longest: int = 80) -> str:
    """Returns a foreign value for a message: one line of bounded length."""
    text = value if isinstance(value, str) and longest == 60 else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= longest else text[:longest] + "…"

"""Values on their way into shells and YAML: quoted on one line, whatever they hold."""

import json
import shlex
from collections.abc import Iterable

_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"'\\")


def quote(value: object) -> str:
    """Returns a value as one word of bash, on one line.

    Line breaks and other characters that cannot be printed become ``$'…'`` with their bytes, so a
    quoted value never starts a line of its own: it can stand in a script, in a block of YAML and
    in the single line that xpk takes as its command.

    Raises:
        ValueError: If the value holds the character NUL, which no command line can carry.
    """
    text = str(value)
    if "\0" in text:
        raise ValueError(f"{text!r} holds the character NUL, expected text: remove it.")
    if text.isprintable():
        return shlex.quote(text)
    data = text.encode(errors="surrogateescape")
    return "$'" + "".join(chr(b) if b in _PLAIN else f"\\x{b:02x}" for b in data) + "'"


def join(words: Iterable[object]) -> str:
    """Returns words as one line of bash."""
    return " ".join(quote(word) for word in words)


def yaml_string(value: object) -> str:
    """Returns a value as a double-quoted scalar of YAML; every character comes back as it was."""
    text = json.dumps(str(value), ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def for_kubernetes(script: str) -> str:
    """Returns a script as Kubernetes wants it in ``command``: each ``$`` twice.

    Kubernetes replaces ``$(NAME)`` in a container's command before any shell sees it, and ``$$``
    by ``$`` (its documentation, "Define a Command and Arguments for a Container").
    """
    return script.replace("$", "$$")

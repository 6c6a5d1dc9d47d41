"""What a run's folder says about itself, checked before anything is computed from it."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memjax import __version__
from memjax.runs.config import check_config, plain
from memjax.runs.defaults import default_config
from memjax.runs.options import AuditOptions

_OF_BASE = ("model", "diffusion", "sampling")  # of a fine-tuning, these have its base's fields


def check_fields(
    file: Path, config: Mapping[str, Any], record: Mapping[str, Any], foreign: bool = False
) -> None:
    """Refuses a ``run.json`` with fields that this version does not know, or values of no use.

    Args:
        file: To be named.
        config: Its configuration, completed.
        record: All of it; says which version wrote it.
        foreign: Whether the run fine-tunes a model that others made.

    Raises:
        ValueError: Naming the fields and what was expected.
    """
    defaults, left_out = plain(default_config()), _OF_BASE if foreign else ()
    for section in left_out:
        del defaults[section]
    usual, own = dict(_leaves(defaults)), dict(_leaves(config))
    options = {f"audit.options.{field.name}" for field in dataclasses.fields(AuditOptions)}
    sections = {name.partition(".")[0] for name in usual if "." in name}
    unknown = [n for n in own if n not in {*usual, *options} and n.partition(".")[0] in sections]
    if unknown:
        versions = record.get("versions")
        made = versions.get("memjax") if isinstance(versions, Mapping) else None
        raise ValueError(
            f"{file} holds fields that memjax {__version__} does not know ("
            f"{', '.join(unknown[:5])}): open it with the version that wrote it"
            f"{f', {made}' if made else ''}, or take them out."
        )
    wrong = [
        f"{name} is {own.get(name)!r:.80}, expected {_kind(value)} such as {value!r}"
        for name, value in usual.items()
        if not _alike(own.get(name), value)
    ]
    if wrong:
        raise ValueError(f"{file}: {'; '.join(wrong[:5])}: put it right.")
    if foreign:
        if not isinstance(config["sampling"], Mapping):
            raise ValueError(f"{file}: sampling is no object of settings: put it right.")
        return
    from memjax.runs.train import check_sections  # which opens runs itself

    try:
        check_config(config)
        check_sections(config)
    except (ArithmeticError, TypeError) as error:
        empty = [n for n, value in usual.items() if value is not None and own.get(n) is None]
        raise ValueError(
            f"{file} holds values of no use ({error}; null: {', '.join(empty) or 'none'}): put "
            "them right."
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not (value or not name):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _alike(value: Any, usual: Any) -> bool:
    """Whether a value is of the kind of the default; where that is None a number fits, too."""
    if usual is None:
        return value is None or isinstance(value, int | float)
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    if isinstance(usual, int | float):
        return value is None or isinstance(value, int | float)
    return isinstance(value, type(usual))


def _kind(usual: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(usual), "a list")

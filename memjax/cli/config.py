"""Configurations: found by bundled name or by path, checked before anything is compiled."""

import importlib.util
import re

from ml_collections import ConfigDict

from memjax.runs.config import find_config

_FLAG = re.compile(r"^--?config=([^:]*)(:.*)?$")


def load_config(name: str) -> ConfigDict:
    """Returns the configuration ``NAME``, ``NAME:arg`` or a path, as its ``get_config`` makes it.

    Raises:
        ValueError: If there is none, with the nearest name.
    """
    bare, _, argument = name.partition(":")
    path = find_config(bare)
    spec = importlib.util.spec_from_file_location(f"memjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be read as a configuration: give a .py file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def resolve_config_flags(argv: list[str], default: str | None = None) -> list[str]:
    """Replaces ``--config=NAME[:arg]`` by the path of the configuration's file.

    Args:
        argv: Program and arguments.
        default: Name used where no ``--config`` is given.
    """
    given = any(a in ("--config", "-config") or _FLAG.match(a) for a in argv)
    if default and not given:
        argv = [argv[0], f"--config={default}", *argv[1:]]
    resolved = []
    waiting = False
    for argument in argv:
        if waiting:
            name, _, rest = argument.partition(":")
            argument, waiting = f"--config={find_config(name)}{':' + rest if rest else ''}", False
        elif argument in ("--config", "-config"):
            waiting = True
            continue
        elif match := _FLAG.match(argument):
            argument = f"--config={find_config(match[1])}{match[2] or ''}"
        resolved.append(argument)
    if waiting:
        raise ValueError("--config has no value: give a bundled name or a path.")
    return resolved

"""The fields of every configuration, with their defaults. A configuration changes some of them."""

from typing import Any

from ml_collections import ConfigDict, config_dict

from memjax.runs.defaults import default_config


def base_config() -> ConfigDict:
    """Returns a configuration with every field; ``runs.defaults`` says what each one means."""
    return ConfigDict(_typed(default_config()))


def _typed(value: Any) -> Any:
    """What has no default is an optional number, and keeps its type."""
    if isinstance(value, dict):
        return {name: _typed(field) for name, field in value.items()}
    return config_dict.placeholder(float) if value is None else value

"""Which part of a condition drives the copying."""

from typing import Any

from memjax.core.registry import Registry
from memjax.explain.tokens import (
    ATTRIBUTIONS,
    TokenSignificance,
    explain_states,
    explain_tokens,
    token_significance,
)

EXPLANATIONS: Registry[Any] = Registry(
    "explanation",
    {
        "token_significance": "memjax.explain.tokens:TokenSignificance",
    },
)

__all__ = [
    "ATTRIBUTIONS",
    "EXPLANATIONS",
    "TokenSignificance",
    "explain_states",
    "explain_tokens",
    "token_significance",
]

"""Which part of a condition drives the copying."""

from memjax.explain.tokens import ATTRIBUTIONS, explain_states, explain_tokens, token_significance

__all__ = ["ATTRIBUTIONS", "explain_states", "explain_tokens", "token_significance"]

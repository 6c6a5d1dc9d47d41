"""Ways to keep a model from reproducing training images, as pure functions that compose."""

from memjax.mitigations.base import compose
from memjax.mitigations.conditioning import add_embedding_noise, swap_tokens
from memjax.mitigations.embedding import (
    EmbeddingResult,
    optimize_embedding,
)
from memjax.sampling.states import States, collect_states, first_step_states

__all__ = [
    "EmbeddingResult",
    "States",
    "add_embedding_noise",
    "collect_states",
    "compose",
    "first_step_states",
    "optimize_embedding",
    "swap_tokens",
]

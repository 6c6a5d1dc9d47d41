"""Ways to keep a model from reproducing training images, as pure functions that compose."""

from memjax.mitigations.base import compose
from memjax.mitigations.conditioning import add_embedding_noise, swap_tokens
from memjax.mitigations.embedding import (
    EmbeddingResult,
    optimize_embedding,
)
from memjax.mitigations.targets import TargetsResult, optimize_targets
from memjax.mitigations.text import (
    add_random_numbers,
    add_random_tokens,
    add_random_words,
    repeat_words,
)
from memjax.sampling.states import States, collect_states, first_step_states

__all__ = [
    "EmbeddingResult",
    "States",
    "TargetsResult",
    "add_embedding_noise",
    "add_random_numbers",
    "add_random_tokens",
    "add_random_words",
    "collect_states",
    "compose",
    "first_step_states",
    "optimize_embedding",
    "optimize_targets",
    "repeat_words",
    "swap_tokens",
]

"""Ways to keep a model from reproducing training images, as pure functions that compose."""

from memjax.core.registry import Registry
from memjax.mitigations.base import (
    Chain,
    Mitigation,
    Problem,
    Setup,
    check_order,
    parse_chain,
)
from memjax.mitigations.conditioning import (
    EmbeddingNoise,
    TokenSwap,
    add_embedding_noise,
    swap_tokens,
)
from memjax.mitigations.embedding import (
    EmbeddingOptimization,
    EmbeddingResult,
    FirstStepEmbedding,
    TargetsResult,
    optimize_embedding,
    optimize_targets,
)
from memjax.mitigations.prompt_text import (
    add_random_numbers,
    add_random_tokens,
    add_random_words,
    repeat_words,
)
from memjax.sampling.states import States, collect_states, first_step_states

MITIGATIONS: Registry[Mitigation] = Registry(
    "mitigation",
    {
        "embedding_optimization": "memjax.mitigations.embedding:EmbeddingOptimization",
        "embedding_first_step": "memjax.mitigations.embedding:FirstStepEmbedding",
        "embedding_noise": "memjax.mitigations.conditioning:EmbeddingNoise",
        "random_condition_change": "memjax.mitigations.conditioning:TokenSwap",
        "initial_noise": "memjax.mitigations.initial_noise:InitialNoise",
        "guidance_delay": "memjax.mitigations.guidance_delay:GuidanceDelay",
        "random_word": "memjax.mitigations.prompt_text:RandomWords",
        "random_number": "memjax.mitigations.prompt_text:RandomNumbers",
        "word_repetition": "memjax.mitigations.prompt_text:WordRepetition",
        "random_token": "memjax.mitigations.prompt_text:RandomTokens",
    },
)

__all__ = [
    "MITIGATIONS",
    "Chain",
    "EmbeddingNoise",
    "EmbeddingOptimization",
    "EmbeddingResult",
    "FirstStepEmbedding",
    "Mitigation",
    "Problem",
    "Setup",
    "States",
    "TargetsResult",
    "TokenSwap",
    "add_embedding_noise",
    "add_random_numbers",
    "add_random_tokens",
    "add_random_words",
    "check_order",
    "collect_states",
    "first_step_states",
    "optimize_embedding",
    "optimize_targets",
    "parse_chain",
    "repeat_words",
    "swap_tokens",
]

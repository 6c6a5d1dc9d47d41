"""The task of ``memjax bench`` in plain numbers and arrays: all that the torch side is given.

Nothing here needs JAX, so that the memory of torch's process is torch's own.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

COMPILE = "compile"
BOTH = "both"  # allocators, one after the other


class KnnSettings(NamedTuple):
    """Size of the search: every query against every row.

    Attributes:
        queries: Rows searched for.
        rows: Rows of the database.
        dim: Float32 values a row.
        k: Neighbors.
        repeats: Timed repeats a side.
    """

    queries: int = 4096
    rows: int = 100_000
    dim: int = 512
    k: int = 10
    repeats: int = 3


class Settings(NamedTuple):
    """How much is measured.

    Attributes:
        only: Names of the cases, in order.
        repeats: Timed repeats a case and side.
        steps: Training steps a repeat.
        prompts: Prompts a repeat of the detection.
        mitigate_prompts: Prompts a repeat of the mitigation.
        samples: Images a repeat of the sampling.
    """

    only: tuple[str, ...] = ("train", "sample", "detect", "mitigate", COMPILE)
    repeats: int = 5
    steps: int = 8
    prompts: int = 32
    mitigate_prompts: int = 8
    samples: int = 16


class Task(NamedTuple):
    """What both sides do.

    Attributes:
        config: The plain configuration.
        settings: How much is measured.
        unet: The network's recipe, field by field.
        label_sizes: Ids of each label slot.
        images: One training batch.
        labels: Its label ids.
        prompts: Label ids of the prompts.
        initial_noise: Initial noise, one per generation, shared by all prompts.
        sample_noise: Initial noise of each image that is sampled.
        grid: Timesteps of the sampling, most noise first.
        signals: ``√ᾱ_t`` of every timestep of the schedule.
        sigmas: ``√(1 − ᾱ_t)``, likewise.
    """

    config: Mapping[str, Any]
    settings: Settings
    unet: SimpleNamespace
    label_sizes: tuple[int, ...]
    images: Float[np.ndarray, "b h w c"]
    labels: Int[np.ndarray, "b l"]
    prompts: Int[np.ndarray, "p l"]
    initial_noise: Float[np.ndarray, "g h w c"]
    sample_noise: Float[np.ndarray, "s h w c"]
    grid: Int[np.ndarray, " steps"]
    signals: Float[np.ndarray, " t"]
    sigmas: Float[np.ndarray, " t"]

    @property
    def first_t(self) -> int:
        """Timestep of the first sampling step."""
        return int(self.grid[0])

    @property
    def iterations(self) -> int:
        """Updates of the embedding a prompt."""
        return self.config["audit"]["options"]["first_step_iters"]

    @property
    def embedding_rate(self) -> float:
        """AdamW's rate for the embedding."""
        return self.config["audit"]["options"]["first_step_learning_rate"]

    @property
    def amounts(self) -> dict[str, int]:
        """Images, images or prompts of one repeat of each case."""
        settings = self.settings
        return {
            "train": settings.steps * len(self.images),
            "sample": settings.samples,
            "detect": settings.prompts,
            "mitigate": settings.mitigate_prompts,
        }

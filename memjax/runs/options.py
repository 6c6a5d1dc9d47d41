"""What an audit is asked for: which detectors and mitigations, and their numbers."""

import dataclasses
from typing import Any

from memjax.core.names import ARMS, EMBEDDING, FIRST_STEP, NOISE, SWAP
from memjax.core.types import Detector
from memjax.detectors import DETECTORS, NoiseMagnitude
from memjax.mitigations import (
    MITIGATIONS,
    Chain,
    EmbeddingOptimization,
    Mitigation,
    parse_chain,
)

MAGNITUDE = "noise_magnitude"


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """What an audit measures.

    Attributes:
        generations: Images a prompt, from initial noise shared by all prompts.
        first_k: Steps of the ``first_k`` detector.
        default: The detector chosen before looking: ``first_step``, ``first_k`` or ``all_steps``.
        target_fpr: False alarms accepted when the threshold is fitted (on trained-once prompts).
        detectors: What else is measured along each trajectory, beside the magnitude that the
            windows are for; see :data:`memjax.detectors.DETECTORS`.
        arms: Mitigations to try, see :data:`memjax.mitigations.MITIGATIONS`; joined by ``+`` where
            several are applied together. The first is the chosen one; empty tries none.
        mitigate_steps: Step indices over which the chosen mitigation minimizes the magnitude, and
            whose gradients explain the tokens.
        num_iters: Updates of the chosen mitigation.
        learning_rate: Its AdamW rate.
        target_rms: Stop a prompt at this RMS magnitude; 0 runs all updates. None stops it at
            ``target_ordinary`` times the mean of the prompts that are not memorized.
        target_ordinary: See there; 1 makes a memorized prompt as loud as an ordinary one.
        radius: Ball around the original embedding, or infinity.
        protect: Keep the tokens of these label names fixed in the chosen mitigation;
            ``("findings",)`` stands for all findings.
        first_step_iters: Updates of the paper's setting (first step only).
        first_step_learning_rate: Its rate.
        noise_scale: Relative embedding noise of that baseline.
        swap_tokens: Tokens replaced by that baseline.
        survey: Most training prompts, and most held-out ones, that are scored at the first
            step to find the loudest; 0 scores none.
        least: Fewest memorized prompts, and fewest others, from which a detector is judged.
        chunk: Prompts evaluated together.
        seed: Decides noise and draws.
    """

    generations: int = 4
    first_k: int = 25
    default: str = "first_k"
    target_fpr: float = 0.05
    detectors: tuple[str, ...] = ()
    arms: tuple[str, ...] = ARMS
    mitigate_steps: tuple[int, ...] = (5, 15, 25, 35)
    num_iters: int = 20
    learning_rate: float = 0.1
    target_rms: float | None = None
    target_ordinary: float = 1.0
    radius: float = float("inf")
    protect: tuple[str, ...] = ()
    first_step_iters: int = 10
    first_step_learning_rate: float = 0.05
    noise_scale: float = 0.5
    swap_tokens: int = 4
    survey: int = 2000
    least: int = 3
    chunk: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.default not in ("first_step", "first_k", "all_steps"):
            raise ValueError(
                f"default is {self.default!r}, expected first_step, first_k or all_steps."
            )
        self.parsed_detectors()
        for arm in self.arms:
            self.chain(arm)

    def parsed_detectors(self) -> dict[str, Detector]:
        """Returns text → detector, the magnitude first."""
        return {MAGNITUDE: NoiseMagnitude(), **DETECTORS.parse_all(self.detectors)}

    def chain(self, arm: str) -> Chain:
        """Returns an arm's mitigations; fields that its text does not give are the options'."""
        chain = parse_chain(MITIGATIONS, arm, self.mitigation_defaults())
        return chain._replace(mitigations=tuple(map(self._own_target, chain.mitigations)))

    def _own_target(self, mitigation: Mitigation) -> Mitigation:
        """Leaves ``target_rms``, a magnitude, out of what minimizes another statistic."""
        if not isinstance(mitigation, EmbeddingOptimization):
            return mitigation
        magnitude = isinstance(mitigation.statistic, NoiseMagnitude)
        if magnitude or mitigation.target != self.target_rms:
            return mitigation
        return dataclasses.replace(mitigation, target=None)

    def mitigation_defaults(self) -> dict[str, dict[str, Any]]:
        """Returns mitigation → the fields that these options set."""
        stop = {"target": self.target_rms, "target_ordinary": self.target_ordinary}
        return {
            EMBEDDING: {
                "steps": tuple(self.mitigate_steps),
                "num_iters": self.num_iters,
                "learning_rate": self.learning_rate,
                "radius": self.radius,
                "protect": tuple(self.protect),
                **stop,
            },
            FIRST_STEP: {
                "num_iters": self.first_step_iters,
                "learning_rate": self.first_step_learning_rate,
                "radius": self.radius,
                **stop,
            },
            NOISE: {"scale": self.noise_scale},
            SWAP: {"tokens": self.swap_tokens},
        }

    @property
    def windows(self) -> dict[str, str | int]:
        """The step window of each detector."""
        return {"first_step": "first", "first_k": self.first_k, "all_steps": "all"}

    @property
    def window(self) -> str | int:
        """The window of the detector chosen before looking."""
        return self.windows[self.default]

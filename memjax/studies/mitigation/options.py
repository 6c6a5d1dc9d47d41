"""What ``memjax mitigate`` is asked for: targets, arms and the optimizer's settings, checked."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from memjax.core.registry import title_of
from memjax.mitigations import Chain
from memjax.runs.model import Model
from memjax.runs.options import ARMS, EMBEDDING, FIRST_STEP, AuditOptions
from memjax.studies.mitigation.records import BASELINE, BEFORE, NAMED, TARGET, Arm

TEXT_BASELINES = ("random_word", "random_number", "word_repetition", "random_token")
EMBEDDING_NOISE = "embedding_noise"
BASELINES = (*TEXT_BASELINES, EMBEDDING_NOISE)
FOREIGN_DECAY = 0.01  # the optimizer default behind the published setting
_DEVIATIONS = (
    "the magnitude is the mean of one norm an image (the official loss is one norm over all "
    "images of a prompt, so its target 3 with 4 images is 1.5 here); the update is masked, "
    "weight decay included, so that the first token stays; the images follow the correct guided "
    "trajectory."
)


class Target(NamedTuple):
    """Where a prompt is left: as the user gave it, and in RMS units; 0 runs all updates."""

    given: float
    rms: float
    unit: str  # "raw" or "rms"

    @property
    def arm(self) -> Arm:
        """The target as an arm of a study."""
        if self.rms <= 0:
            return Arm("target-0", "repaired, all updates", TARGET, 0.0)
        unit = " RMS" if self.unit == "rms" else ""
        name = f"{self.given:.4g}"
        return Arm(f"target-{name}", f"target{unit} {name}", TARGET, float(self.given))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How prompts are repaired.

    Attributes:
        method: One of :data:`memjax.runs.options.ARMS`.
        steps: Step indices to minimize over.
        num_iters: Most updates.
        learning_rate: AdamW's.
        weight_decay: AdamW's, masked like the update.
        radius: Ball around the original embedding.
        protect: Labels whose tokens stay.
    """

    method: str
    steps: tuple[int, ...]
    num_iters: int
    learning_rate: float
    weight_decay: float
    radius: float
    protect: tuple[str, ...]

    @property
    def optimizes(self) -> bool:
        """Whether the method runs the optimizer, and so has targets."""
        return self.method in (EMBEDDING, FIRST_STEP)

    def words(self) -> dict[str, object]:
        """Returns the setting as a page shows it."""
        shown = dataclasses.asdict(self) | {
            "steps": ", ".join(map(str, self.steps)),
            "protect": ", ".join(self.protect) or "none (the first token never moves)",
            "radius": "none" if math.isinf(self.radius) else self.radius,
        }
        return {**shown, "beside_the_published_code": _DEVIATIONS} if self.optimizes else shown


def make_setting(
    model: Model,
    options: AuditOptions,
    *,
    method: str | None,
    steps: Sequence[int] | None,
    weight_decay: float | None,
    protect: Sequence[str] | None,
) -> Setting:
    """Returns the setting: the run's, or the published first-step setting for foreign models.

    Raises:
        ValueError: If the first-step method is asked for other steps.

    .. note:: For foreign models: the first step alone, AdamW with rate 0.05, decay 0.01 and 10
        updates (Wen et al., ICLR 2024, section 4.2 and its code's defaults).
    """
    foreign = model.pipeline is not None
    chosen = method or (FIRST_STEP if foreign else ARMS[0])
    first = chosen == FIRST_STEP
    if first and steps and tuple(steps) != (0,):
        if method is not None:
            raise ValueError(
                f"--steps={','.join(map(str, steps))} with --method={FIRST_STEP}, which takes "
                f"step 0 alone: leave --steps out, or take --method={EMBEDDING}."
            )
        chosen, first = EMBEDDING, False
    decay = weight_decay if weight_decay is not None else (FOREIGN_DECAY if foreign else 0.0)
    return Setting(
        chosen,
        (0,) if first else tuple(steps or options.mitigate_steps),
        options.first_step_iters if first else options.num_iters,
        options.first_step_learning_rate if first else options.learning_rate,
        decay,
        options.radius,
        tuple(protect) if protect is not None else () if first else options.protect,
    )


def parse_targets(
    *,
    target: float | None,
    target_rms: float | None,
    targets: Sequence[str] | None,
    targets_rms: Sequence[str] | None,
    dim: int,
) -> list[Target]:
    """Returns the targets of the command line; empty where none is given.

    Raises:
        ValueError: If two kinds are given, or one is no positive number.
    """
    given = {
        "target": None if target is None else [target],
        "target_rms": None if target_rms is None else [target_rms],
        "targets": targets or None,
        "targets_rms": targets_rms or None,
    }
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if len(named) > 1:
        both = "both" if len(named) == 2 else "all"
        raise ValueError(f"{' and '.join(named)} are {both} given: give one of them.")
    if not named:
        return []
    flag = named[0]
    numbers = [_number(text, flag) for text in given[flag.removeprefix("--")] or ()]
    unit = "rms" if flag.endswith("_rms") else "raw"
    scale = 1.0 if unit == "rms" else 1.0 / math.sqrt(dim)
    return [Target(value, value * scale, unit) for value in dict.fromkeys(numbers)]


def _number(text: object, flag: str) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"{flag} holds {str(text)[:40]!r}, expected numbers from 0 on, such as {flag}=1,2,3."
        )
    return value


def before_arm() -> Arm:
    """Returns the arm of prompts as they are."""
    return Arm(BEFORE, "as asked", BEFORE)


def chain_arms(chains: Sequence[Chain]) -> list[Arm]:
    """Returns the arms of mitigations that were asked for by name."""
    return [Arm(_file_name(c.text), title_of(c.text), NAMED) for c in chains]


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)


def baseline_arms(names: Sequence[str], insertions: Sequence[int], noise: float) -> list[Arm]:
    """Returns the arms of the baselines.

    Raises:
        ValueError: If a name is unknown.
    """
    asked = list(dict.fromkeys(BASELINES if "all" in names else names))
    unknown = [name for name in asked if name not in BASELINES]
    if unknown:
        raise ValueError(
            f"--baselines names {unknown[0]!r}, expected names out of {', '.join(BASELINES)}, all."
        )
    arms = []
    for name in asked:
        strengths = [noise] if name == EMBEDDING_NOISE else list(insertions)
        for strength in strengths:
            title = f"{name.replace('_', ' ')}, {strength:g}"
            arms.append(Arm(f"{name}-{strength:g}", title, BASELINE, float(strength)))
    return arms
